"""Layers for layer-wise decay: 0 at the image, one a block, the last at the output."""

import pytest
import torch
from torch import nn

import bench
from backbones.contract import Unsupported
from backbones.parameters import layers

SIZE = (64, 64)


def layer(placed, part):
    found = {number for name, number in placed.items() if part in name}
    assert len(found) == 1, (part, found)
    return found.pop()


@pytest.mark.parametrize(
    ("name", "last", "first", "middle", "final"),
    [
        ("vit_pico", 4, "pos_embed", ("blocks.1.", 2), "transformer.norm."),
        ("deit_pico", 4, "dist_token", ("blocks.0.", 1), "transformer.norm."),
        ("hybrid_pico", 4, "stem.0", ("blocks.0.", 1), "transformer.norm."),
        ("timm:vit_small_patch14_dinov2", 12, "cls_token", ("blocks.5.", 6), "transformer.norm."),
        ("timm:resnet18", 8, "net.conv1", ("layer2.0.conv1", 3), "layer4.1"),
        ("torchvision:resnet18", 8, "network.conv1", ("layer1.1.", 2), "layer4.1."),
        ("torchvision:vit_b_16", 12, "class_token", ("encoder_layer_3.", 4), "encoder.ln."),
        ("torchvision:convnext_tiny", 21, "features.0.0", ("features.1.0.", 1), "features.7.2."),
    ],
)
def test_layers_are_counted_from_the_image_to_the_last_block(name, last, first, middle, final):
    with torch.device("meta"):
        model = bench.build(name, "linear", size=(70, 70) if "patch14" in name else SIZE, classes=2)
    placed, count = layers(model.backbone)
    assert placed.keys() == dict(model.backbone.named_parameters()).keys()
    assert layer(placed, first) == 0
    assert layer(placed, middle[0]) == middle[1]
    if name != "torchvision:convnext_tiny":  # its reductions between the stages count as blocks
        assert count == last
    assert layer(placed, final) == count
    assert set(placed.values()) == set(range(count + 1))


def test_a_swin_has_a_layer_a_block_whatever_the_stage():
    model = bench.build("swin_pico", "linear", size=SIZE, classes=2)
    placed, count = layers(model.backbone)
    assert layer(placed, "patch_embed") == 0
    paths = (name.split(".") for name in placed if ".blocks." in name)
    blocks = {tuple(path[: path.index("blocks") + 2]) for path in paths}
    assert count == len(blocks) > 4


def test_a_network_without_known_layers_is_refused_with_what_to_do():
    model = bench.build("torchvision:resnet18", "linear", size=SIZE, classes=2)
    model.backbone.network = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(Unsupported, match="layer_decay = 1"):
        layers(model.backbone)
