"""The search for the largest batch, the processes that it tries in, and both together on a real model."""

import faulthandler
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

from backbones.contract import Unsupported
from bench.errors import UserError
from bench.measures import max_batch
from bench.measures._largest import BOUND, grain, largest, straight
from bench.measures.max_batch import MIB, Trial, explain, in_child
from bench.plan.case import resolve
from bench.plan.measure import Context, Invalid, measures
from tests.bench.measures.test_memory import cell_of
from tests.bench.model.test_storage import Allocator


@pytest.mark.parametrize(
    "most", [*range(1, 40), 255, 256, 257, 258, 272, 273, 511, 512, 513, 5000, 65535, 65536, 10**6]
)
def test_the_answer_fits_and_the_next_one_does_not(most):
    asked = []
    found = largest(lambda batch: asked.append(batch) or batch <= most)
    assert found <= most
    assert asked[-1] == found, "the answer is the last that was tried"
    assert asked.count(found) == 2
    if most <= 256:
        assert found == most
    elif most < BOUND:
        assert found > most - grain(found) - 1
        assert any(found < batch <= found + grain(found) for batch in asked)
    else:
        assert found == BOUND
    assert len(asked) <= 30
    assert max(asked) <= BOUND


class Memory:
    """What a batch takes of a limit: weights, and the same for each image."""

    def __init__(self, most, *, base=300.0, each=37.0):
        self.base, self.each = base, each
        self.limit = self.took(most) + each * 0.3
        self.asked = []

    def took(self, batch):
        return self.base + self.each * batch

    def fits(self, batch):
        self.asked.append(batch)
        return self.took(batch) <= self.limit

    def predict(self):
        return straight([(batch, self.took(batch), self.limit) for batch in self.asked])


@pytest.mark.parametrize("most", [*range(1, 40), 200, 255, 256, 257, 272, 500, 513, 5000, 65535, 65536, 10**6])
def test_two_batches_say_where_to_look(most):
    memory = Memory(most)
    found = largest(memory.fits, predict=memory.predict)
    assert memory.asked[-1] == found
    assert found == min(most, BOUND) if most <= 256 else found <= most
    assert most >= BOUND or found > most - grain(found) - 1
    assert len(memory.asked) <= 7
    plain = []
    largest(lambda batch: plain.append(batch) or batch <= most)
    assert most < 100 or len(memory.asked) <= len(plain) / 2


@pytest.mark.parametrize("most", [3, 11, 100, 256, 1000, 30_000])
@pytest.mark.parametrize("off", [0.5, 0.9, 1.2, 3.0, None])
def test_a_bad_prediction_costs_probes_and_no_exactness(most, off):
    asked = []
    found = largest(
        lambda batch: asked.append(batch) or batch <= most, predict=lambda: None if off is None else int(most * off)
    )
    assert asked[-1] == found <= most
    assert found > most - grain(found) - 1
    assert len(asked) <= 30
    assert max(asked) <= BOUND


def test_what_is_not_known_predicts_nothing():
    assert straight([(1, 10.0, 100.0)]) is None
    assert straight([(1, 10.0, 100.0), (8, None, 100.0)]) is None
    assert straight([(1, 10.0, 100.0), (8, 10.0, 100.0)]) is None
    assert straight([(8, 24.0, 100.0), (1, 10.0, 100.0)]) == 46


@pytest.mark.parametrize("other", [{"runtime": "openvino"}, {"quantise": "int8-weights"}])
def test_what_is_no_batch_of_torchs_own_is_unsupported(other):
    cell = replace(cell_of(), **other)
    with pytest.raises(Unsupported, match="in torch, without a quantisation; not with runtime"):
        max_batch.measure(cell, Context(lambda *_: None, 1, None))


def test_nothing_fits():
    asked = []
    assert largest(lambda batch: bool(asked.append(batch))) == 0
    assert asked == [1]


@pytest.mark.parametrize("most", [7, 300])
def test_an_answer_that_does_not_hold_is_lowered(most):
    seen = set()

    def fits(batch):
        """A batch within 5 % of the limit fits the first time only."""
        again = batch in seen
        seen.add(batch)
        return batch <= (most * 0.95 if again else most)

    found = largest(fits)
    assert most * 0.85 < found <= most * 0.95, "not what fits only once"


def test_a_bound_that_is_no_power_of_two():
    assert largest(lambda batch: True, bound=100) == 64 + 36
    assert largest(lambda batch: batch <= 70, bound=100) == 70


def test_a_child_sends_its_trial():
    parent = os.getpid()

    def task():
        return Trial("fits", mib=float(os.getppid() == parent), limit_mib=2.0)

    assert in_child(task) == Trial("fits", "", 1.0, 2.0)


def test_what_a_child_raises_is_told_apart():
    def raising(error):
        def task():
            raise error

        return in_child(task)

    assert raising(MemoryError()) == Trial("oom", "out of memory")
    assert raising(torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")).reason == "CUDA out of memory. Tried"
    assert raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you")).end == "oom"
    assert raising(RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when")).end == "oom"
    assert raising(RuntimeError("could not create a primitive")).end == "suspect"
    assert raising(RuntimeError("GET was unable to find an engine to execute this computation")).end == "suspect"
    assert raising(Unsupported("no such patch")) == Trial("Unsupported", "no such patch")
    assert raising(UserError("no such weights")) == Trial("UserError", "no such weights")
    assert raising(Invalid("not finite")) == Trial("Invalid", "not finite")
    assert raising(ValueError("odd")) == Trial("ValueError", "ValueError: odd")


def test_want_of_memory_is_found_behind_what_wraps_it():
    outer = RuntimeError("backend failed")
    outer.__cause__ = MemoryError("no room")
    assert explain(outer) == Trial("oom", "no room")


@pytest.mark.parametrize(
    ("by", "kills", "end"),
    [
        (signal.SIGKILL, [3, 4], "oom"),
        (signal.SIGKILL, [3, 3], "RuntimeError"),
        (signal.SIGKILL, [None, None], "RuntimeError"),
        (signal.SIGSEGV, [3], "suspect"),
        (signal.SIGTERM, [3], "RuntimeError"),
    ],
)
def test_how_a_child_died_is_told_apart(monkeypatch, by, kills, end):
    monkeypatch.setattr(max_batch.oom, "kills", mock.Mock(side_effect=kills))

    def task():
        faulthandler.disable()  # pytest's: it would print where
        os.kill(os.getpid(), by)

    assert in_child(task) == Trial(end, f"its process died of {by.name}")


def test_a_child_without_a_result():
    assert in_child(lambda: os._exit(3)) == Trial("RuntimeError", "its process ended with exit code 3 and no result")


def test_a_process_that_has_computed_is_not_forked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="CUDA is in use in this process"):
        max_batch.check_forkable(1)
    monkeypatch.undo()
    monkeypatch.setattr(max_batch._thread, "_count", lambda: -5)
    with pytest.raises(RuntimeError, match="threads of libraries run in this process"):
        max_batch.check_forkable(1)


def test_memory_that_is_available_is_the_containers_where_that_is_less(tmp_path):
    meminfo, two, one = tmp_path / "meminfo", tmp_path / "v2", tmp_path / "v1"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    (one / "memory").mkdir(parents=True)
    two.mkdir()
    (two / "memory.max").write_text("max\n")
    (two / "memory.current").write_text("5\n")
    assert max_batch.available_bytes(meminfo, two) == 3000 * 1024
    (two / "memory.max").write_text("2000000\n")
    assert max_batch.available_bytes(meminfo, two) == 1999995
    (one / "memory" / "memory.limit_in_bytes").write_text("1000000")
    (one / "memory" / "memory.usage_in_bytes").write_text("1500000")
    assert max_batch.available_bytes(meminfo, one) == 0
    with pytest.raises(Unsupported, match="set limit_mib"):
        max_batch.available_bytes(tmp_path / "none", two)


@pytest.fixture
def given(tmp_path):
    stages = []
    yield lambda cell: (cell, Context(lambda stage, *_: stages.append(stage), 1, resolve(cell, cache=tmp_path)))
    assert all(stage.startswith("batch ") for stage in stages)


def played(monkeypatch, trial):
    """Have trials play: ``trial(batch, limit in MiB)``; no process, no model."""
    monkeypatch.setattr(max_batch, "check_forkable", lambda threads: None)
    monkeypatch.setattr(max_batch, "in_child", lambda task: task())
    monkeypatch.setattr(
        max_batch, "_forward", lambda case, cell, limit, threads: trial(cell.batch, limit and limit // MIB)
    )


def test_the_values_are_those_of_the_answers_own_trial(given, monkeypatch):
    def trial(batch, limit):
        return Trial("fits", mib=batch * 3.0, limit_mib=limit) if batch * 3 <= limit else Trial("oom", "no room")

    played(monkeypatch, trial)
    outcome = max_batch.measure(*given(replace(cell_of(), limit_mib=64)))
    assert outcome.values == {"max_batch": 21, "max_batch_mib": 63.0, "limit_mib_used": 64, "probes": 11}
    assert set(outcome.values) == {column.name for column in measures()["max_batch"].columns}
    assert outcome.samples["probe_batch"] == [1, 2, 4, 8, 16, 32, 24, 20, 22, 21, 21]
    assert outcome.samples["probe_fits"] == [1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1]


def test_one_image_that_does_not_fit_is_out_of_memory_and_says_of_what(given, monkeypatch):
    played(monkeypatch, lambda batch, limit: Trial("oom", "you tried to allocate 7 bytes"))
    with pytest.raises(torch.OutOfMemoryError, match="one image does not fit into 64 MiB: you tried to allocate 7 b"):
        max_batch.measure(*given(replace(cell_of(), limit_mib=64)))


def test_other_errors_are_what_they_are(given, monkeypatch):
    played(monkeypatch, lambda batch, limit: Trial("Unsupported", "not here"))
    with pytest.raises(Unsupported, match=r"^not here$"):
        max_batch.measure(*given(cell_of()))
    played(monkeypatch, lambda batch, limit: Trial("fits") if batch < 4 else Trial("IndexError", "IndexError: 4"))
    with pytest.raises(RuntimeError, match="with batch 4: IndexError: 4"):
        max_batch.measure(*given(cell_of()))


def test_a_failure_that_may_be_for_memory_counts_as_such_only_where_memory_helps(given, monkeypatch):
    cell = replace(cell_of(), limit_mib=64)
    played(monkeypatch, lambda batch, limit: Trial("fits") if batch < 4 else Trial("suspect", "died"))
    assert max_batch.measure(*given(cell)).values["max_batch"] == 3
    played(monkeypatch, lambda batch, limit: Trial("suspect", "died"))
    with pytest.raises(RuntimeError, match="with batch 1: died"):
        max_batch.measure(*given(cell))
    played(monkeypatch, lambda batch, limit: Trial("suspect", "died") if limit == 64 else Trial("fits"))
    with pytest.raises(torch.OutOfMemoryError, match="64 MiB: died"):
        max_batch.measure(*given(cell))


def test_a_device_whose_memory_cannot_be_limited_is_unsupported(monkeypatch):
    monkeypatch.setattr(max_batch.build, "device_of", lambda cell: torch.device("xpu"))
    with pytest.raises(Unsupported, match="on a CPU or a CUDA device"):
        max_batch._forward(resolve(cell_of(), cache=Path("none")), cell_of(), None, 1)


@pytest.mark.parametrize("limit", [None, 50 * MIB])
def test_on_cuda_torchs_allocator_is_limited(monkeypatch, limit):
    class Properties:
        total_memory = 200 * MIB

    device = torch.device("cpu")
    shares = []
    allocator = Allocator(before=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: shares.append(share))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (190 * MIB, 200 * MIB))
    allocator.install(monkeypatch)
    with allocator.live:
        trial = max_batch._on_cuda(resolve(cell_of(), cache=Path("none")), cell_of(), limit, device)
    assert shares == ([] if limit is None else [0.25])
    assert trial.end == "fits"
    assert trial.limit_mib == (200 if limit is None else 50)
    assert trial.room_mib == (190 if limit is None else 50)
    weights = 1.9
    assert weights < trial.mib < 4
    with pytest.raises(Unsupported, match="limit_mib=300 is more than the 200 MiB of the device"):
        max_batch._on_cuda(resolve(cell_of(), cache=Path("none")), cell_of(), 300 * MIB, device)


@pytest.mark.parametrize(
    ("limit", "free", "said"),
    [
        (None, 79_000, ""),
        (None, 60_000, "20000 MiB of the device are held .* the default limit is all 80000 MiB; .* less than 60000"),
        (40_000, 60_000, ""),
        (70_000, 60_000, "limit_mib=70000; end them, or set limit_mib to less than 60000"),
    ],
)
def test_memory_that_others_hold_is_seen_first(monkeypatch, limit, free, said):
    """The answer would be that of a smaller device."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * MIB, 80_000 * MIB))
    look = partial(max_batch._free, limit and limit * MIB, 80_000 * MIB, torch.device("cuda"))
    if said:
        with pytest.raises(Invalid, match=said):
            look()
    else:
        assert look() == free * MIB


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_noise_is_that_of_the_other_measures_over_and_over(dtype):
    cell = cell_of(batch=["21"], dtype=[dtype])
    few = max_batch.modes.noise(replace(cell, batch=8), torch.device("cpu"))
    image = max_batch._noise(cell, torch.device("cpu"))
    assert image.shape == (21, 3, 64, 64)
    assert image.dtype == few.dtype
    assert all(torch.equal(image[index], few[index % 8]) for index in range(21))


def print_the_largest():
    """What a real model's search finds, and how the answer and one more end after it; for a process of its own."""
    cell = replace(cell_of(resolution=["256"]), limit_mib=20)
    case = resolve(cell, cache=Path("none"))
    values = max_batch.measure(cell, Context(lambda *_: None, 1, case)).values
    ends = {}
    for batch in (values["max_batch"], values["max_batch"] + grain(values["max_batch"])):
        one = replace(cell, batch=batch)
        ends[batch] = in_child(lambda: max_batch._forward(case, one, 20 * MIB, 1)).end  # noqa: B023
    sys.stdout.write(json.dumps([values, list(ends.values())]))


@pytest.mark.slow
def test_the_largest_batch_of_a_real_model_fits_and_one_more_does_not():
    """In a fresh process, as the worker is: this one has gaps in its heap, which a limit does not see."""
    words = [sys.executable, "-c", "from tests.bench.measures.test_max_batch import print_the_largest as go; go()"]
    root = Path(__file__).resolve().parents[3]
    answer = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    values, ends = json.loads(answer)
    assert ends[0] == "fits"
    assert ends[1] in ("oom", "suspect")
    # By the law of attention an image takes 2.2 MB, and weights 2 MB: 8.
    assert 3 < values["max_batch"] < 11
    assert values["probes"] >= 7
    assert 15 < values["max_batch_mib"] <= 20 == values["limit_mib_used"]


def test_a_worker_takes_cudnns_words_for_want_of_memory():
    from bench.plan import oom

    error = RuntimeError("GET was unable to find an engine to execute this computation")
    assert oom.said(error) == str(error)
    assert oom.said(RuntimeError("no such convolution")) == ""
