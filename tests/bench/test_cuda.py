"""Every head and every family of backbones on a GPU that is not there, which refuses what one refuses."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

import bench
from bench import catalogue
from bench.model.artifact import made_up
from bench.plan.case import resolve
from tests.bench.fake_cuda import CUDA, Posing, moved, pretend
from tests.bench.launchers.test_local import job

SIZE = (64, 64)
HEADS = sorted(
    name
    for name in catalogue.entries("heads")
    if f"{name}_pico" not in catalogue.entries("heads") and name not in ("distilled_linear", "segformer_768")
)
BACKBONES = ["cnn_pico", "deit_pico", "hybrid_pico", "swin_pico", "torchvision:resnet18", "timm:vit_tiny_patch16_224"]
LARGE = ["swinv2_tiny", "torchvision:convnext_tiny", "torchvision:swin_v2_t", "torchvision:vit_b_32"]
CHOOSING = ("faster_rcnn_pico", "mask_rcnn_pico")
"""Heads whose second stage works on what the first one has chosen."""


def on_host(tree):
    """What a GPU has computed, as tensors of the host."""
    return tree_map_only(Posing, lambda one: one.beneath, tree)


def plain(answers):
    """Classes of pixels, or what is known of each image's boxes."""
    if isinstance(answers, torch.Tensor):
        return on_host(answers)
    return [{name: on_host(one) for name, one in vars(boxes).items() if one is not None} for boxes in answers]


def built(backbone, head, size=SIZE):
    torch.manual_seed(0)
    return bench.build(backbone, head, size=size, classes=4, padding="pad").eval()


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        *(("vit_pico", head) for head in HEADS),
        *((backbone, "linear") for backbone in BACKBONES),
        *(pytest.param(backbone, "linear", marks=pytest.mark.slow) for backbone in LARGE),
    ],
)
def test_a_forward_pass_makes_nothing_on_the_host(backbone, head):
    """A tensor made without a device stops it; a list that becomes a tensor stops the recording of a graph."""
    net = built(backbone, head)
    image = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        wanted = net(image)
        decoded = net.decode(wanted, SIZE)
    with pretend() as gpu:
        moved(net)
        there = image.to(CUDA)
        found = net(there)
        assert {one.device for one in tree_leaves(found) if isinstance(one, torch.Tensor)} == {CUDA}
        answers = net.decode(found, SIZE)
        if head not in CHOOSING:
            with gpu.record():
                net(there)
    torch.testing.assert_close(on_host(found), wanted)
    torch.testing.assert_close(plain(answers), plain(decoded))


@pytest.mark.parametrize("head", HEADS)
def test_a_loss_makes_nothing_on_the_host(head, tmp_path):
    net = built("vit_pico", head).train()
    case = resolve(job("latency", head=[head]).cell, cache=tmp_path)
    cell = job("latency", head=[head], batch=[2]).cell
    image = torch.rand(2, 3, *cell.size)
    with torch.no_grad():
        torch.manual_seed(1)
        wanted = net.loss(net(image), made_up(cell, case.task, 4, torch.device("cpu"), masks=case.masks))
    with pretend():
        moved(net)
        torch.manual_seed(1)
        found = net.loss(net(image.to(CUDA)), made_up(cell, case.task, 4, CUDA, masks=case.masks))
        assert found.device == CUDA
    torch.testing.assert_close(on_host(found), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", [head for head in HEADS if catalogue.get("heads", head).facts["task"] == "detection"])
def test_a_full_load_makes_nothing_on_the_host(head):
    net = built("vit_pico", head)
    other = built("vit_pico", head)
    image = torch.rand(2, 3, *SIZE)
    wanted = other.head.full_load(other.backbone(image), SIZE, 200)
    with pretend():
        moved(net)
        assert net.head.full_load(net.backbone(image.to(CUDA)), SIZE, 200) == pytest.approx(wanted, rel=0.05)
