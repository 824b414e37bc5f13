"""Selection of whole batches: the same boxes as torchvision's, which goes image by image, for fewer launches."""

import pytest
import torch

import bench
from heads import selection
from tests.bench.fake_cuda import CUDA, moved, pretend

SIZE = (64, 96)


def raw_of(head, images, classes, generator):
    """Outputs as they might be, on the host: some places score high, most low, one image has nothing."""
    places = sum(len(level) for level in head.anchors(SIZE, torch.device("cpu")))

    def draw(*shape):
        return torch.randn(images, places, *shape, generator=generator)

    logits = 2 * draw(classes) - 3
    logits[images - 1] = -30.0
    if "centerness" in head.forward.__annotations__["return"].__annotations__:
        return {"size": SIZE, "logits": logits, "regression": 3 * draw(4).abs(), "centerness": draw(1)}
    return {"size": SIZE, "logits": logits, "regression": draw(4) / 2}


def on_host(found):
    return [{name: vars(one)[name].cpu() for name in ("xyxy", "labels", "scores")} for one in found]


@pytest.mark.parametrize("at_once", [1, 3 * 10**4, selection.AT_ONCE])
@pytest.mark.parametrize(("name", "classes", "least"), [("fcos_pico", 40, 70), ("retinanet_pico", 40, 90)])
def test_whole_batches_give_what_torchvision_gives(name, classes, least, at_once, monkeypatch):
    monkeypatch.setattr(selection, "AT_ONCE", at_once)
    net = bench.build("vit_pico", name, size=SIZE, classes=classes)
    raw = raw_of(net.head, 5, classes, torch.Generator().manual_seed(3))
    with pretend():
        moved(net)
        there = {key: one.to(CUDA) if isinstance(one, torch.Tensor) else one for key, one in raw.items()}
        found = on_host(net.decode(there, (128, 96)))
        monkeypatch.setattr(selection, "in_whole_batches", lambda device: False)
        wanted = on_host(net.decode(there, (128, 96)))
    assert min(len(one["scores"]) for one in found[:-1]) >= least
    assert len(found[-1]["scores"]) == 0
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.pop("labels"), other.pop("labels"))
        # Of a CPU the rest of a vector is computed by other code, so that the last bit depends on where an image lies.
        torch.testing.assert_close(one, other, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["fcos_pico", "retinanet_pico"])
def test_few_launches_and_hardly_any_waiting(name, monkeypatch):
    """And anchors are made once for a size, as a copy from the host stops what is queued."""
    net = bench.build("vit_pico", name, size=SIZE, classes=5)
    raw = raw_of(net.head, 8, 5, torch.Generator().manual_seed(3))
    seen = {}
    with pretend() as gpu:
        moved(net)
        there = {key: one.to(CUDA) if isinstance(one, torch.Tensor) else one for key, one in raw.items()}
        for way, whole in (("ours", True), ("torchvision", False)):
            monkeypatch.setattr(selection, "in_whole_batches", lambda device, whole=whole: whole)
            net.decode(there, SIZE)
            gpu.seen.clear()
            gpu.launches = 0
            net.decode(there, SIZE)
            seen[way] = gpu.launches, gpu.seen["copy"], gpu.seen["wait"]
    ours, theirs = seen["ours"], seen["torchvision"]
    assert ours[0] < theirs[0] / 4
    assert ours[1] <= 2 < theirs[1], "the two halves of torchvision's decoder alone"
    assert ours[2] == 2 < theirs[2], "how many candidates there are, and which"


def test_a_cpu_keeps_to_torchvisions_selection(monkeypatch):
    net = bench.build("vit_pico", "fcos_pico", size=SIZE, classes=5)
    raw = raw_of(net.head, 2, 5, torch.Generator().manual_seed(3))
    monkeypatch.setattr(selection, "select", None)
    assert len(net.decode(raw, SIZE)) == 2
