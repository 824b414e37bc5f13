"""The model that is measured: quickly drawn, in its mode, compared with eager float32 before it counts."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bench
from backbones.contract import Unsupported
from bench.model import artifact, modes
from bench.model.artifact import TOLERANCE, distance, made_up
from bench.model.quick import quick_weights
from bench.model.traffic import Traffic
from bench.plan.case import resolve
from bench.plan.measure import Context, Invalid
from heads.contract import Boxes
from tests.bench.launchers.test_local import job


def cell(**axes):
    return replace(job("latency").cell, **axes)


@pytest.fixture
def context(tmp_path):
    return lambda cell: Context(lambda *_: None, 1, resolve(cell, cache=tmp_path))


def test_quick_weights_have_the_spread_of_real_ones():
    layers = {
        "linear": lambda: torch.nn.Linear(300, 200),
        "conv": lambda: torch.nn.Conv2d(64, 64, 3),
        "normal": lambda: torch.nn.init.trunc_normal_(torch.empty(200, 300), std=0.02),
        "embedding": lambda: torch.nn.Embedding(100, 300),
    }

    def weight(made):
        return made if isinstance(made, torch.Tensor) else made.weight

    for name, make in layers.items():
        with quick_weights():
            quick = weight(make())
        ratio = (quick.std() / weight(make()).std()).item()
        assert 0.7 < ratio < 1.1, f"{name}: {ratio}"
        assert quick.unique().numel() > 1000
    with quick_weights():
        norm = torch.nn.LayerNorm(8)
    assert torch.equal(norm.weight, torch.ones(8)), "what is not drawn is what it is"
    assert (torch.empty(1 << 12).normal_().abs() > 2).any(), "and outside of it nothing has changed"


def test_every_mode_is_compared_with_eager_float32(context):
    plain = artifact.prepare(context(cell()))
    assert plain.deviation == 0
    assert plain.compile_s is None
    assert plain.candidates is None, "a segmentation head has no NMS"
    rounded = artifact.prepare(context(cell(dtype="bf16")))
    assert 1e-4 < rounded.deviation < TOLERANCE["bf16"]
    assert {parameter.dtype for parameter in rounded.net.parameters()} == {torch.bfloat16}
    assert rounded.image.dtype == torch.bfloat16
    assert not rounded.net.training
    last = artifact.prepare(context(cell(memory_format="channels_last", backbone="hybrid_pico")))
    assert last.deviation < 1e-5
    assert last.image.is_contiguous(memory_format=torch.channels_last)
    kernels = [parameter for parameter in last.net.parameters() if parameter.ndim == 4 and parameter.shape[-1] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_another_function_is_invalid_with_the_figure(context, monkeypatch, error):
    def wrong(net, cell, device):
        return lambda image: net(image) * (1 + error)

    monkeypatch.setattr(modes, "in_mode", wrong)
    with pytest.raises(Invalid, match=r"from those of eager fp32, more than the 0\.001 that fp32") as caught:
        artifact.prepare(context(cell()))
    found = caught.value.outcome.values["deviation"]
    assert found == (pytest.approx(0.01, rel=1e-3) if error == error else None)  # noqa: PLR0124 - nan


def test_the_worst_tensor_decides():
    one, other = torch.ones(4), torch.full((4,), 2.0)
    assert distance([one, one], [one, other]) == 0.5
    assert distance([one], [torch.zeros(4)]) == 1.0
    assert distance([torch.zeros(4)], [torch.zeros(4)]) == 0.0
    assert distance([torch.tensor([float("inf")])], [torch.ones(1)]) == float("inf")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"dtype": "tf32"}, "tf32 is a number format of NVIDIA GPUs, and the device is cpu; take fp32"),
        ({"compile": "cudagraph"}, "replays kernels of a CUDA device, and the device is cpu"),
    ],
)
def test_a_mode_that_a_cpu_does_not_have_says_so(context, axes, message):
    with pytest.raises(Unsupported, match=message):
        artifact.prepare(context(cell(**axes)))


def test_a_detector_decodes_a_stated_load(context):
    ready = artifact.prepare(context(cell(head="fcos_pico", height=128, width=128, patch=16)))
    # Strides 8, 16, 32 at 128 px: 336 places, of which each class of each may be a candidate.
    assert 900 <= ready.candidates <= 1100
    with torch.inference_mode():
        parts = ready.parts(cell(head="fcos_pico", height=128, width=128))
        assert list(parts) == ["backbone", "head", "post", "end_to_end"]
        found = parts["end_to_end"]()
        assert all(0 < len(boxes.scores) <= 100 for boxes in found)
        same = zip(found, parts["post"](), strict=True)
        assert all(torch.equal(one.scores, other.scores) for one, other in same)


def test_parts_that_are_none_have_no_time(context):
    inside = artifact.prepare(context(cell(head="eomt_pico")))
    with torch.inference_mode():
        assert list(inside.parts(cell(head="eomt_pico"))) == ["post", "end_to_end"]
        plain = artifact.prepare(context(cell()))
        assert list(plain.parts(cell(compile="default"))) == ["post", "end_to_end"], "one graph has no parts"


@pytest.mark.parametrize("head", ["linear", "fcos_pico", "mask_rcnn_pico"])
def test_a_training_step_changes_the_weights(context, head):
    ready = artifact.prepare_training(context(cell(head=head)))
    before = [parameter.detach().clone() for parameter in ready.net.parameters()]
    ready.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, ready.net.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert all(torch.isfinite(parameter).all() for parameter in ready.net.parameters())


def test_a_made_up_truth_is_a_truth():
    labels = made_up(cell(height=72, width=40), "segmentation", 5, torch.device("cpu"), masks=False)
    assert labels.shape == (2, 72, 40)
    assert labels.dtype == torch.int64
    assert 1 < labels.unique().numel() <= 5
    objects = made_up(cell(height=72, width=40), "detection", 5, torch.device("cpu"), masks=True)
    for boxes in objects:
        assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
        assert (boxes.xyxy >= 0).all()
        assert (boxes.xyxy <= torch.tensor([40, 72, 40, 72])).all()
        area = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).prod(1)
        assert torch.allclose(boxes.masks.flatten(1).sum(1).float(), area, rtol=0.35, atol=16)


def test_traffic_of_known_operations():
    layer, image = torch.nn.Linear(8, 4), torch.rand(16, 8)
    with torch.no_grad(), Traffic() as everything:
        torch.relu(layer(image)).view(4, 16).t()
    # addmm reads 16x8, 8x4 and 4 and writes 16x4; relu reads and writes 16x4; views move nothing.
    assert everything.operations == 2
    assert everything.bytes == 4 * (128 + 32 + 4 + 64 + 64 + 64)
    with torch.no_grad(), Traffic(fused=True) as heavy:
        torch.relu(layer(image))
    assert (heavy.operations, heavy.bytes) == (1, 4 * (128 + 32 + 4 + 64))
    query = torch.rand(1, 2, 16, 8)
    with torch.no_grad(), Traffic(fused=True) as attention:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert attention.operations == 1
    assert attention.bytes >= 4 * 4 * query.numel()


def test_float32_is_float32_and_tf32_is_asked_for(monkeypatch):
    """On a GPU torch would run convolutions in TF32 by itself."""
    seen = SimpleNamespace(matmul=SimpleNamespace(), conv=SimpleNamespace(), rnn=SimpleNamespace())
    monkeypatch.setattr(torch.backends.cuda, "matmul", seen.matmul)
    monkeypatch.setattr(modes, "cudnn", seen)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    for dtype, wanted in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")):
        modes.set_precision(cell(dtype=dtype), torch.device("cuda"))
        assert {one.fp32_precision for one in (seen, seen.matmul, seen.conv, seen.rnn)} == {wanted}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(Unsupported, match=r"8\.0 or newer, and Tesla T4 is older"):
        modes.set_precision(cell(dtype="tf32"), torch.device("cuda"))


def test_torch_answers_both_of_its_switches_alike(monkeypatch):
    """Inductor asks the older one, and torch raises where the two differ."""
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    try:
        for dtype in ("tf32", "fp32", "tf32", "bf16"):
            modes.set_precision(cell(dtype=dtype), torch.device("cuda"))
            on = dtype == "tf32"
            assert (matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (on, on)
            assert matmul.fp32_precision == ("tf32" if on else "ieee")
            assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
    finally:
        matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # as torch starts
        matmul.fp32_precision = torch.backends.cudnn.fp32_precision = "none"


class FakeGraph:
    """Stands for ``torch.cuda.CUDAGraph``: replays what was called while it was recorded."""

    recorded = None

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


class Recording:
    def __init__(self, graph):
        self.graph = graph

    def __enter__(self):
        FakeGraph.recorded = self.graph

    def __exit__(self, *exception):
        pass


@pytest.fixture
def cuda(monkeypatch):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda one: Recording(None))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)


def test_a_graph_is_recorded_once_and_replayed(cuda):
    calls = []
    graph = modes.in_mode(lambda image: calls.append(1) or image * 2, cell(compile="cudagraph"), torch.device("cuda"))
    image = torch.ones(2)
    graph(image)
    assert len(calls) == modes.WARM_UPS + 1
    for _ in range(3):
        graph(image)
    assert len(calls) == modes.WARM_UPS + 1, "from then on nothing is called"
    assert graph.graph.replays == 4
    graph(torch.full((2,), 5.0))
    assert image.tolist() == [5.0, 5.0], "another input is copied to where the graph reads"


def test_running_out_of_memory_while_recording_is_that(cuda):
    tries = []

    def too_large(image):
        tries.append(1)
        if len(tries) > modes.WARM_UPS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image

    with pytest.raises(torch.OutOfMemoryError):
        modes.in_mode(too_large, cell(compile="cudagraph"), torch.device("cuda"))(torch.ones(1))


def test_an_explicit_kernel_is_compared_with_the_written_softmax(context):
    assert artifact.prepare(context(cell(attention="unfused"))).deviation == 0
    fused = artifact.prepare(context(cell(attention="fused")))
    assert 0 < fused.deviation < 1e-5
    assert all(module.fused_attn for module in fused.net.modules() if hasattr(module, "fused_attn"))


def test_what_cannot_be_recorded_is_unsupported(cuda):
    tries = []

    def looks_at_values(image):
        tries.append(1)
        if len(tries) > modes.WARM_UPS:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return image

    graph = modes.in_mode(looks_at_values, cell(compile="cudagraph"), torch.device("cuda"))
    with pytest.raises(Unsupported, match=r"cannot be recorded as a CUDA graph: operation not permitted .* capturing$"):
        graph(torch.ones(1))


def test_compile_time_is_that_of_an_empty_cache(monkeypatch, context):
    """What an earlier run has compiled would otherwise make the column a matter of history."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    seen = []

    def watched(call, mode):
        return lambda image: seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]) or call(image)

    monkeypatch.setattr(torch, "compile", watched)
    ready = artifact.prepare(context(cell(compile="default")), fresh=True)
    assert ready.compile_s >= 0
    assert len(seen) == 3
    assert len({*seen, "/mine"}) == 2
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    assert "TRITON_CACHE_DIR" not in os.environ
    artifact.prepare(context(cell(compile="default")), fresh=True)
    assert len({*seen, "/mine"}) == 3, "nor what the cell before has"
    artifact.prepare(context(cell(compile="default")))
    assert seen[-1] == "/mine", "where nobody looks at the time, the cache saves it"


@pytest.mark.parametrize("triton", [True, False])
def test_what_an_empty_cache_has_taken_can_be_found_later(monkeypatch, tmp_path, triton):
    """The measures that come after the time need not compile the same model again, for minutes under max-autotune."""
    usual = {"TORCHINDUCTOR_CACHE_DIR": tmp_path / "usual", "TRITON_CACHE_DIR": tmp_path / "triton"}
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(usual["TORCHINDUCTOR_CACHE_DIR"]))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    if triton:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(usual["TRITON_CACHE_DIR"]))
    there = usual["TORCHINDUCTOR_CACHE_DIR"] / "fx" / "old"
    there.parent.mkdir(parents=True)
    there.write_text("mine")

    def compiled():
        for name in usual:
            folder = Path(os.environ[name])
            assert not folder.exists() or name == "TRITON_CACHE_DIR"
            (folder / "fx").mkdir(parents=True)
            (folder / "fx" / name).write_text("made")
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "fx" / "old").write_text("made anew")

    with modes.empty_compiler_cache():
        compiled()
    assert [path.name for path in there.parent.iterdir()] == ["old"], "not asked for"
    with modes.empty_compiler_cache(keep=True):
        compiled()
    assert (there.parent / "TORCHINDUCTOR_CACHE_DIR").read_text() == "made"
    assert there.read_text() == "mine"
    kept = usual["TRITON_CACHE_DIR"] if triton else usual["TORCHINDUCTOR_CACHE_DIR"] / "triton" / "0"
    assert (kept / "fx" / "TRITON_CACHE_DIR").read_text() == "made"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_compile_mode_is_torchs(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, mode: asked.append(mode) or call)
    for mode in ("none", "default", "max-autotune"):
        modes.in_mode(len, cell(compile=mode), torch.device("cpu"))
    assert asked == ["default", "max-autotune"]


@pytest.mark.gpu
def test_a_gpu_times_in_events_and_replays_graphs(context):
    """Only where there is one: the real events, and a graph whose outputs are those of eager mode."""
    from bench.timing.clock import clock_of

    device = torch.accelerator.current_accelerator().type
    for compile_ in ("none", "cudagraph"):
        ready = artifact.prepare(context(cell(device=device, compile=compile_, dtype="bf16")))
        with torch.inference_mode():
            assert all(ms > 0 for ms in clock_of(ready.device).times(ready.forward, 5))
        assert ready.deviation < TOLERANCE["bf16"]


def test_weights_of_one_shape_are_told_apart_for_runtimes_that_keep_one_copy_of_what_is_equal():
    with quick_weights():
        net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    assert torch.equal(net[0].weight, net[1].weight), "quickly drawn"
    before = [weight.clone() for weight in net.parameters()]
    artifact.tell_apart(net)
    assert len({tuple(weight.flatten().tolist()) for weight in net.parameters()}) == len(before)
    for weight, other in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=0)


def test_factors_that_tell_weights_apart_leave_a_deep_networks_outputs_as_large_as_they_were():
    with quick_weights():
        net = bench.build("vit_tiny", "linear", size=(64, 64), classes=5).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = net(image)
        artifact.tell_apart(net)
        after = net(image)
    assert (after.norm() / before.norm()).item() == pytest.approx(1, abs=0.1)


def test_boxes_without_a_counterpart_are_counted_on_both_sides():
    xyxy = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9]])
    one = Boxes(xyxy, torch.tensor([1, 2]), torch.tensor([0.9, 0.8]))
    other = Boxes(xyxy[:1] + 0.05, torch.tensor([1]), torch.tensor([0.9]))
    assert artifact.agreement([one], [one]) == 1
    assert artifact.agreement([one], [other]) == pytest.approx(2 / 3)
    other.labels[0] = 2
    assert artifact.agreement([one], [other]) == 0
    labels = torch.tensor([[[0, 1], [1, 1]]])
    assert artifact.agreement(labels, labels.clamp(max=0)) == 0.25
