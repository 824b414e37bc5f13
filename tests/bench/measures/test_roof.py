"""The machine's limits: real ones that must be plausible, and a made-up clock that makes them exact."""

import time
from dataclasses import replace
from statistics import median

import pytest
import torch

from backbones.contract import Unsupported
from bench import run
from bench.measures import roof
from bench.plan import matrix
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.plan.measure import Context, measures
from bench.store.store import Store
from tests.bench.records import CELL

CPU = torch.device("cpu")


@pytest.fixture
def given(tmp_path):
    return lambda cell: (cell, Context(lambda *_: None, 1, resolve(cell, cache=tmp_path)))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(roof, "SIZES_CPU", (128, 256, 512))
    monkeypatch.setattr(roof, "COPY_CPU", 8 * roof.MIB)
    monkeypatch.setattr(roof, "CACHES", 0)
    for name in ("SIZE_S", "COPY_S"):
        monkeypatch.setattr(roof, name, 0.02)


class Cubic:
    """Answers what a product of the side that was asked for would take, in milliseconds; runs nothing."""

    def __init__(self, ms_of_1024):
        self.ms_of_1024, self.counts = ms_of_1024, []

    def times(self, call, count):
        self.counts.append(count)
        n = call.a.shape[0]
        assert call.b.shape == call.out.shape == (n, n)
        return [self.ms_of_1024 * (n / 1024) ** 3] * count


class Constant:
    """Runs the call once and says that each took so many milliseconds."""

    def __init__(self, ms):
        self.ms = ms

    def times(self, call, count):
        call()
        return [self.ms] * count


def test_figures_of_this_machine_are_plausible(given, small):
    cell = Cell(**CELL)
    a, b = torch.rand(512, 512), torch.rand(512, 512)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    found = roof.measure(*given(cell))
    reached = 2 * 512**3 / median(seconds) / 1e12
    values = {name: value for name, value in found.values.items() if isinstance(value, float)}
    assert set(values) == {column.name for column in measures()["roof"].columns}
    assert 0.1 * reached < values["peak_tflops"] < 50 * reached, "also beside other processes"
    assert 0.1 < values["copy_gbps"] < 10_000
    assert 0.05 < values["launch_us"] < 1000
    sizes = (128, 256, 512)
    assert values["peak_tflops"] == max(2 * n**3 / median(found.samples[f"matmul_{n}_ms"]) / 1e9 for n in sizes)
    assert median(found.samples["launch_us"]) == values["launch_us"]


def test_units_are_right_and_the_best_size_counts(given, small, monkeypatch):
    monkeypatch.setattr(roof, "clock_of", lambda device: Constant(2.0))
    found = roof.measure(*given(Cell(**CELL)))
    assert found.values["peak_tflops"] == pytest.approx(2 * 512**3 / 2e-3 / 1e12)
    assert found.values["copy_gbps"] == pytest.approx(2 * 8 * 2**20 / 2e-3 / 1e9)
    assert set(found.samples) == {"matmul_128_ms", "matmul_256_ms", "matmul_512_ms", "copy_ms", "launch_us"}


def test_the_product_and_the_copy_are_real():
    a, b, out = torch.rand(8, 8), torch.rand(8, 8), torch.zeros(8, 8)
    roof._Product(a, b, out)()
    torch.testing.assert_close(out, a @ b.T)

    class Looking(Constant):
        def times(self, call, count):
            (target,) = (cell.cell_contents for cell in call.__closure__ if cell.cell_contents.sum() == 0)
            call()
            assert target.min() == 1
            target.zero_()
            return [1.0] * count

    size, ms = roof.copy(CPU, Looking(1.0), free=4000)
    assert size == 1000, "a quarter of what is free, for there are two"
    assert len(ms) >= roof.LEAST


@pytest.mark.parametrize(
    ("ms_of_1024", "sizes"),
    [
        (0.01, (1024, 2048, 4096, 8192, 16384)),
        (10.0, (1024, 2048, 4096)),  # 640 ms x 4 at the last one are within the budget of 3 s, 5.12 s x 4 are not
        (400.0, (1024,)),
        (10_000.0, (1024,)),  # however slow: one size is always taken
    ],
)
def test_sizes_grow_as_long_as_time_allows(monkeypatch, ms_of_1024, sizes):
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    clock = Cubic(ms_of_1024)
    found = roof.matrix_products(torch.device("meta"), torch.bfloat16, clock, free=1 << 60, budget_s=3.0)
    assert tuple(found) == sizes
    assert all(roof.LEAST <= len(ms) <= roof.MOST for ms in found.values())
    assert clock.counts[0] == 2, "the first size of all also loads the libraries"


def test_a_device_that_heats_up_works_for_a_second_first(given, monkeypatch):
    """A GPU that was idle is faster than one in service."""
    spent = []

    class Clock(Constant):
        def times(self, call, count):
            if isinstance(call, roof._Product):
                spent.append(self.ms * count)
            return super().times(call, count)

    monkeypatch.setattr(roof, "clock_of", lambda device: Clock(7.0))
    monkeypatch.setattr(roof, "free_bytes", lambda device: 1 << 40)
    monkeypatch.setattr(roof.build, "device_of", lambda cell: torch.device("meta"))
    monkeypatch.setattr(roof.build, "synchronize", lambda device: None)
    monkeypatch.setattr(roof, "undisturbed", lambda take, cell, context: take())  # once, whoever else is here
    products = roof.matrix_products

    def first(*arguments, **options):
        assert 1000 <= sum(spent) <= 1200
        return products(*arguments, **options, sizes=(128,))

    monkeypatch.setattr(roof, "matrix_products", first)
    roof.measure(*given(Cell(**CELL | {"device": "cuda"})))
    assert sum(spent) > 1000


def test_time_that_has_passed_counts(monkeypatch):
    seconds = iter([0.0, 0.5, 2.999, 2.999])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    found = roof.matrix_products(torch.device("meta"), torch.float32, Cubic(1.0), free=1 << 60, budget_s=3.0)
    assert tuple(found) == (1024, 2048)


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, (1024, 2048)), (torch.float16, (1024, 2048))])
def test_sizes_grow_as_long_as_memory_allows(dtype, sizes):
    free = 2 * 3 * 2048**2 * dtype.itemsize
    found = roof.matrix_products(torch.device("meta"), dtype, Cubic(1e-3), free=free)
    assert tuple(found) == sizes
    found = roof.matrix_products(torch.device("meta"), dtype, Cubic(1e-3), free=free - 2)
    assert tuple(found) == sizes[:1]


def test_launches_are_queued_and_waited_for_once(monkeypatch):
    events = []
    monkeypatch.setattr(roof.build, "synchronize", lambda device: events.append("sync"))

    def clock():
        events.append("clock")
        return float(events.count("clock"))

    monkeypatch.setattr(time, "perf_counter", clock)
    found = roof.launch(torch.device("meta"), torch.float32, operations=500)
    assert found == [pytest.approx(1e6 / 500)] * roof.LAUNCH_ROUNDS
    assert events[:4] == ["sync", "clock", "sync", "clock"]


def test_each_launch_is_an_operation_of_the_tensor(monkeypatch):
    made = []
    zeros = torch.zeros

    def remember(*shape, **options):
        made.append(zeros(*shape, **options))
        return made[-1]

    monkeypatch.setattr(torch, "zeros", remember)
    roof.launch(CPU, torch.float32, operations=7)
    assert made[0].tolist() == [7.0 * (1 + roof.LAUNCH_ROUNDS)]


def test_the_device_says_what_memory_is_free(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (5, 9))
    assert roof.free_bytes(torch.device("cuda")) == 5
    assert roof.free_bytes(CPU) > 64 * roof.MIB

    def shared(device):
        raise RuntimeError

    monkeypatch.setattr(torch.accelerator, "get_memory_info", shared)
    assert roof.free_bytes(torch.device("mps")) > 64 * roof.MIB


def test_a_copy_is_far_larger_than_the_caches(tmp_path, monkeypatch):
    caches = {(0, 2): ("2", "512K", "0"), (1, 2): ("2", "512K", "1")}
    caches |= {(cpu, 3): ("3", "32768K", "0-1") for cpu in (0, 1)} | {(2, 3): ("3", "65536K", "2")}
    for (cpu, index), texts in caches.items():
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in zip(("level", "size", "shared_cpu_list"), texts, strict=True):
            (folder / name).write_text(text + "\n")
    assert roof.last_level_cache(tmp_path) == 96 * roof.MIB, "a shared one counts once, other levels not at all"
    assert roof.last_level_cache(tmp_path / "none") == 0
    monkeypatch.setattr(roof, "last_level_cache", lambda: 96 * roof.MIB)
    monkeypatch.setattr(torch, "ones", lambda elements, device: torch.empty(elements, device="meta"))
    monkeypatch.setattr(torch, "zeros", lambda elements, device: torch.empty(elements, device="meta"))
    assert roof.copy(CPU, Constant(1.0), free=1 << 40)[0] == 4 * 96 * roof.MIB
    assert roof.copy(torch.device("cuda"), Constant(1.0), free=1 << 40)[0] == 1024 * roof.MIB


def test_a_dtype_that_the_device_has_not_is_unsupported(given):
    with pytest.raises(Unsupported, match="tf32"):
        roof.measure(*given(replace(Cell(**CELL), dtype="tf32")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_can_be_multiplied_and_added(dtype):
    found = roof.matrix_products(CPU, dtype, roof.clock_of(CPU), free=1 << 30, sizes=(32,))
    assert min(found[32]) > 0
    assert min(roof.launch(CPU, dtype, operations=5)) > 0


def test_cells_share_it_unless_dtype_device_or_threads_differ(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("""
question = "What can it do?"
[[grid]]
measure = ["roof"]
backbone = ["vit_pico", "swin_pico"]
resolution = [64, 128]
head = ["linear", "fcos"]
batch = [1, 8]
dtype = ["fp32", "bf16"]
threads = [1, 2]
device = "cpu"
""")
    here = replace(describe(), id="here", comparable="here", gpus=[], cores=2, dtypes=["fp32", "bf16"])
    plan = run.plan(matrix.load(str(path)), here, Store(tmp_path / "m"), Roots())
    assert plan.cells == 64
    found = sorted((planned.job.cell.dtype, planned.job.cell.threads) for planned in plan.planned)
    assert found == [("bf16", 1), ("bf16", 2), ("fp32", 1), ("fp32", 2)]
