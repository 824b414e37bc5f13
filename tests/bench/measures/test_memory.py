"""Memory of inference and of training, on real models and on a device that is played; and the law of attention."""

import gc
from dataclasses import replace

import pytest
import torch

from bench.measures import memory, training_memory
from bench.measures.max_batch import Trial, in_child
from bench.model import artifact, storage
from bench.model.modes import CudaGraph
from bench.plan import matrix
from bench.plan.case import resolve
from bench.plan.environment import describe
from bench.plan.measure import Context, measures
from tests.bench.model.test_storage import Allocator
from tests.benchmarks.memory_law import exponent, peak, point


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What the imports left behind is no garbage: looking for some takes a quarter of a second a time."""
    gc.freeze()
    yield
    gc.unfreeze()


def cell_of(**axes):
    wanted = {"backbone": ["vit_pico"], "head": ["linear"], "patch": ["16"], "resolution": ["64"], "batch": ["2"]}
    cells = matrix.load("default").override({**wanted, **axes}).cells(describe())
    return replace(next(iter(cells))[0], threads=1, device="cpu")


@pytest.fixture
def given(tmp_path):
    return lambda cell: (cell, Context(lambda *_: None, 1, resolve(cell, cache=tmp_path)))


def test_peaks_follow_the_batch_and_a_prediction_takes_no_less(given):
    one, two = (memory.measure(*given(cell_of(batch=[batch]))).values for batch in ("8", "16"))
    assert two["peak_mib"] == 2 * one["peak_mib"]
    assert two["weights_mib"] == one["weights_mib"]
    assert one["end_to_end_peak_mib"] >= one["peak_mib"] > 0
    assert one["process_mib"] > 0
    assert set(one) == {column.name for column in measures()["memory"].columns}
    assert one["reserved_mib"] is None, "unknown on a CPU, and not 0"


def test_peaks_repeat_exactly_in_another_process_and_training_takes_more(given):
    def peaks():
        found = memory.measure(*given(cell_of())).values
        training = training_memory.measure(*given(cell_of())).values
        assert set(training) == {column.name for column in measures()["training_memory"].columns}
        return [found["peak_mib"], found["end_to_end_peak_mib"], training["train_peak_mib"]], found["weights_mib"]

    (inference, end_to_end, training), weights = peaks()
    assert in_child(lambda: Trial(str(peaks()[0]))).end == str([inference, end_to_end, training])
    assert memory.measure(*given(cell_of())).values["peak_mib"] == inference, "and in the same process"
    # Gradients and AdamW's two moments of every weight are alive when the second step ends.
    assert training > 3 * 0.99 * weights
    assert training > inference


def test_training_is_measured_from_before_its_first_step(given, monkeypatch):
    """Twice in a row the same, though the model has been trained in between: what a step leaves was given back."""
    ready = artifact.prepare_training(given(cell_of())[1])
    first = storage.live_peak(lambda: training_memory._steps(ready))
    later = storage.live_peak(lambda: training_memory._steps(ready))
    training_memory._clear(ready)
    assert later < first, "the state was there already"
    assert storage.live_peak(lambda: training_memory._steps(ready)) == first


def test_the_inside_of_a_compiled_graph_is_unknown_on_a_cpu(given, monkeypatch):
    monkeypatch.setattr("bench.model.modes.torch.compile", lambda call, mode: call)
    values = memory.measure(*given(cell_of(compile=["default"]))).values
    assert values["peak_mib"] is None
    assert values["end_to_end_peak_mib"] is None
    assert values["process_mib"] >= 0
    training = training_memory.measure(*given(cell_of(compile=["default"]))).values
    assert training["train_peak_mib"] is None
    assert training["train_process_mib"] > 0


def test_on_cuda_the_allocator_is_asked(given, monkeypatch):
    cell = cell_of()
    ready = artifact.prepare(given(cell)[1])
    monkeypatch.setattr(artifact, "prepare", lambda context: ready)
    wanted = memory.measure(*given(cell)).values
    ready.device = torch.device("cuda")
    allocator = Allocator(before=10 * storage.MIB)
    allocator.install(monkeypatch)
    monkeypatch.setattr(memory, "device_process_bytes", lambda device: 500 * storage.MIB)
    with allocator.live:
        found = memory.measure(*given(cell)).values
        unseen = memory.measure(*given(replace(cell, compile="max-autotune"))).values
    assert found["peak_mib"] == wanted["peak_mib"]
    assert found["end_to_end_peak_mib"] == wanted["end_to_end_peak_mib"]
    assert unseen == {**found, "peak_mib": None, "end_to_end_peak_mib": None}
    assert found["process_mib"] == 500
    assert found["reserved_mib"] >= 10 + wanted["peak_mib"]


def test_a_cuda_graph_is_recorded_anew_for_each_peak(given, monkeypatch):
    """A replay allocates nothing, so the peak has to be that of recording."""
    cell = replace(cell_of(), compile="cudagraph")
    ready = artifact.prepare(given(cell_of())[1])
    ready.device = torch.device("cuda")
    ready.run = old = CudaGraph(ready.net)
    recorded = []
    monkeypatch.setattr(CudaGraph, "_record", lambda self, image: recorded.append(self) or self.call(image))
    Allocator(before=0).install(monkeypatch)
    monkeypatch.setattr(memory, "device_process_bytes", lambda device: None)
    monkeypatch.setattr(artifact, "prepare", lambda context: ready)
    assert memory.measure(*given(cell)).values["process_mib"] is None
    assert len({id(graph) for graph in recorded}) == 2
    assert old not in recorded


def test_training_on_cuda_is_measured_after_a_warm_up(given, monkeypatch):
    cell = cell_of()
    ready = artifact.prepare_training(given(cell)[1])
    steps = []
    step = ready.step
    monkeypatch.setattr(ready, "step", lambda: (steps.append(1), step()))
    ready.device = torch.device("cuda")
    allocator = Allocator(before=0)
    allocator.install(monkeypatch)
    monkeypatch.setattr(training_memory, "device_process_bytes", lambda device: None)
    monkeypatch.setattr(artifact, "prepare_training", lambda context: ready)
    with allocator.live:
        found = training_memory.measure(*given(cell)).values
    assert len(steps) == 2 * training_memory.STEPS
    monkeypatch.undo()
    assert found["train_peak_mib"] == training_memory.measure(*given(cell)).values["train_peak_mib"]


@pytest.mark.parametrize("attention", ["fused", "unfused"])
@pytest.mark.parametrize(("size", "patch", "batch"), [(64, 16, 1), (64, 16, 2), (128, 8, 1), (128, 8, 3), (128, 32, 2)])
def test_peaks_follow_the_law_of_attention_to_the_byte(attention, size, patch, batch):
    found = point("vit_pico", size=size, patch=patch, batch=batch, attention=attention)
    assert (found.block, found.whole) == (found.block_law, found.whole_law)


def test_unfused_attention_grows_faster_than_the_tokens_and_windows_do_not():
    from backbones import swin, vit

    def growth(build, name, patch, sizes):
        nets = [build(name, patch=patch, size=(size, size), attention="unfused").eval() for size in sizes]
        return exponent([net.tokens for net in nets], [peak(net, net.size[0]) for net in nets])

    assert growth(vit.build, "vit_pico", 8, (128, 192, 256)) > 1.5
    assert growth(swin.build, "swin_pico", 4, (224, 448)) == pytest.approx(1, abs=0.02)
