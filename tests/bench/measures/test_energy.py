"""Joules an image: from counters whose figures are known, and the kernel's folders made up."""

from dataclasses import dataclass
from types import SimpleNamespace

import pynvml
import pytest
import torch

from bench.measures import energy
from bench.measures.energy import NvmlCounter, RaplCounter, Spent, counter_of, rapl, rest, spend
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import Context, measures
from bench.timing import nvml
from tests.bench.records import CELL

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def given(tmp_path):
    return lambda cell: (cell, Context(lambda *_: None, 1, resolve(cell, cache=tmp_path)))


class World:
    """A device that draws 5 W, and 3 J more for each pass of 0.1 s; its counter is renewed every ``every`` seconds."""

    def __init__(self, monkeypatch, *, every=0.0):
        self.seconds, self.passes, self.queued, self.every = 0.0, 0, 0, every
        self.log, self.shown, self.renewed = [], 0.0, 0.0
        monkeypatch.setattr(energy, "perf_counter", lambda: self.seconds)
        monkeypatch.setattr(energy, "sleep", self.sleep)

    def sleep(self, seconds):
        self.seconds += seconds

    def call(self):
        self.queued += 1

    def synchronize(self):
        for _ in range(self.queued):
            self.seconds += 0.1
            self.passes += 1
            if self.seconds - self.renewed >= self.every:
                self.renewed, self.shown = self.seconds, self.spent()
        self.log.append(self.queued)
        self.queued = 0

    def spent(self):
        return 1000 + 5 * self.seconds + 3 * self.passes

    def joules(self):
        assert self.queued == 0, "read while the device is at work"
        return self.shown if self.every else self.spent()


def test_every_joule_of_the_window_belongs_to_its_passes(monkeypatch):
    world = World(monkeypatch)
    found = spend(world, world.call, world.synchronize, ms=100)
    assert found.seconds >= energy.WINDOW_S
    assert found.joules == pytest.approx(found.passes * (3 + 0.5))
    assert found.watts == pytest.approx(35)
    assert world.passes == found.passes + 1, "the pass that waits for the counter's first renewal is before the window"


def test_a_counter_that_is_seldom_renewed_costs_no_precision(monkeypatch):
    world = World(monkeypatch, every=0.15)
    monkeypatch.setattr(energy, "EDGE_S", 1.0)
    found = spend(world, world.call, world.synchronize, ms=100)
    # Read at any moment it would be off by up to 0.15 s at each end: by 7 %.
    assert found.joules == pytest.approx(found.passes * 3.5)


def test_a_counter_that_stands_still_is_not_waited_for_and_says_nothing(monkeypatch):
    world = World(monkeypatch, every=1e9)
    found = spend(world, world.call, world.synchronize, ms=100)
    assert (found.joules, found.watts) == (None, None)
    assert found.seconds < energy.WINDOW_S + 2 * energy.EDGE_S + 0.5


def test_work_is_queued_a_quarter_of_a_second_at_a_time(monkeypatch):
    world = World(monkeypatch)
    spend(world, world.call, world.synchronize, ms=100)
    assert set(world.log) == {1, 2}
    world = World(monkeypatch)
    spend(world, world.call, world.synchronize, ms=5000)
    assert set(world.log) == {1}


@pytest.mark.parametrize("fails", [1, 3])
def test_a_counter_that_fails_on_the_way_leaves_it_unknown(monkeypatch, fails):
    world = World(monkeypatch)
    reads = []

    def joules():
        reads.append(1)
        return world.spent() if len(reads) <= fails else None

    found = spend(SimpleNamespace(joules=joules), world.call, world.synchronize, ms=100)
    assert found.joules is None
    assert found.passes > 0


def test_rest_is_a_second_without_work(monkeypatch):
    world = World(monkeypatch)
    assert rest(world) == Spent(pytest.approx(5.0), 1.0, 0)
    assert rest(SimpleNamespace(joules=lambda: 7.0)).watts is None
    assert rest(SimpleNamespace(joules=lambda: None)).watts is None


@dataclass
class Ready:
    forward: object


def test_joules_an_image_power_and_idle_power(monkeypatch, given):
    world = World(monkeypatch)
    monkeypatch.setattr(energy, "counter_of", lambda device: world)
    monkeypatch.setattr(energy.artifact, "prepare", lambda context: Ready(world.call))
    monkeypatch.setattr(energy, "warm_up", lambda clock, call: SimpleNamespace(ms=100.0))
    monkeypatch.setattr(energy.build, "synchronize", lambda device: world.synchronize())
    found = energy.measure(*given(Cell(**(CELL | {"batch": 8}))))
    assert found.values == {
        "joules_per_image": pytest.approx(3.5 / 8),
        "power_w": pytest.approx(35),
        "idle_w": pytest.approx(5),
    }
    assert set(found.values) == {column.name for column in measures()["energy"].columns}
    assert found.samples["images"][0] % 8 == 0
    assert found.samples["images"][0] / 8 * 0.1 == pytest.approx(found.samples["window_s"][0])


def test_a_real_model_is_run_while_it_is_counted(monkeypatch, given):
    from time import perf_counter

    monkeypatch.setattr(energy, "counter_of", lambda device: SimpleNamespace(joules=lambda: 10 * perf_counter()))
    monkeypatch.setattr(energy, "WINDOW_S", 0.05)
    monkeypatch.setattr(energy, "IDLE_S", 0.05)
    found = energy.measure(*given(Cell(**(CELL | {"batch": 2, "height": 32, "width": 32}))))
    images, seconds = found.samples["images"][0], found.samples["window_s"][0]
    assert images >= 2
    assert found.values["power_w"] == pytest.approx(10, rel=0.3)
    assert found.values["idle_w"] == pytest.approx(10, rel=0.3)
    assert found.values["joules_per_image"] == pytest.approx(10 * seconds / images, rel=0.3)


def test_without_a_counter_it_is_unknown_at_once(monkeypatch, given):
    def build(context):
        raise AssertionError("a model was built for nothing")

    def wait(seconds):
        raise AssertionError("waited for nothing")

    monkeypatch.setattr(energy.artifact, "prepare", build)
    monkeypatch.setattr(energy, "sleep", wait)
    monkeypatch.setattr(energy, "counter_of", lambda device: None)
    found = energy.measure(*given(Cell(**CELL)))
    assert found.values == {"joules_per_image": None, "power_w": None, "idle_w": None}
    assert found.samples == {}


class Powercap:
    """The kernel's folder of power zones."""

    def __init__(self, folder):
        self.folder = folder

    def zone(self, place, name, microjoules, span=1_000_000):
        path = self.folder / place
        path.mkdir(parents=True, exist_ok=True)
        for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", span)):
            (path / file).write_text(f"{value}\n")


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path / "powercap")


def test_all_packages_are_summed_and_nothing_is_counted_twice(powercap):
    powercap.zone("intel-rapl:0", "package-0", 100_000)
    powercap.zone("intel-rapl:1", "package-1", 200_000)
    powercap.zone("intel-rapl:0:0", "core", 0)
    powercap.zone("intel-rapl:0:1", "dram", 0)
    powercap.zone("intel-rapl:2", "psys", 0)
    powercap.zone("intel-rapl-mmio:0", "package-0", 0)
    (powercap.folder / "intel-rapl").mkdir()
    counter = counter_of(CPU, powercap.folder)
    assert isinstance(counter, RaplCounter)
    assert [zone.name for zone in counter.zones] == ["intel-rapl:0", "intel-rapl:1"]
    before = counter.joules()
    powercap.zone("intel-rapl:0", "package-0", 150_000)
    powercap.zone("intel-rapl:1", "package-1", 225_000)
    for place in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:2", "intel-rapl-mmio:0"):
        powercap.zone(place, (powercap.folder / place / "name").read_text().strip(), 999_999)
    after = counter.joules()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(0.075)


def test_a_counter_that_starts_again_goes_on(powercap):
    powercap.zone("intel-rapl:0", "package-0", 900_000, span=1_000_000)
    counter = rapl(powercap.folder)
    assert counter is not None
    for value, total in ((950_000, 0.05), (30_000, 0.13), (40_000, 0.14), (20_000, 1.12)):
        powercap.zone("intel-rapl:0", "package-0", value)
        assert counter.joules() == pytest.approx(total)


@pytest.mark.parametrize("broken", ["missing", "none", "other zones", "unreadable", "one unreadable", "nonsense"])
def test_a_kernel_without_a_readable_counter_has_none(powercap, broken, monkeypatch):
    if broken == "other zones":
        powercap.zone("intel-rapl:0", "psys", 1)
    elif broken == "none":
        powercap.folder.mkdir()
    elif broken != "missing":
        powercap.zone("intel-rapl:0", "package-0", 1)
        powercap.zone("intel-rapl:1", "package-1", "soon" if broken == "nonsense" else 2)
    if "unreadable" in broken:  # to a user; these tests may run as the superuser
        from pathlib import Path

        real = Path.read_text

        def read_text(path, *arguments, **options):
            if path.name == "energy_uj" and (broken == "unreadable" or path.parent.name == "intel-rapl:1"):
                raise PermissionError(path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", read_text)
    assert counter_of(CPU, powercap.folder) is None


def test_a_gpus_counter_is_that_of_torchs_device(monkeypatch):
    asked = []
    cards = {"1111-2222": nvml.Gpu("GPU-1111-2222", "handle", "handle")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1111-2222"))
    monkeypatch.setattr(energy, "open_gpu", lambda which: asked.append(which) or cards.get(which))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: {"handle": 2500}[handle])
    counter = counter_of(CUDA)
    assert isinstance(counter, NvmlCounter)
    assert counter.joules() == pytest.approx(2.5)
    assert asked == ["1111-2222"]

    def unsupported(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    assert counter.joules() is None
    assert counter_of(CUDA) is None
    monkeypatch.setattr(energy, "open_gpu", lambda which: None)
    assert counter_of(CUDA) is None


def test_other_devices_have_no_counter(powercap):
    powercap.zone("intel-rapl:0", "package-0", 1)
    assert counter_of(torch.device("mps"), powercap.folder) is None


def test_it_depends_on_what_latency_depends_on():
    assert set(measures()["energy"].fields) == set(measures()["latency"].fields)
