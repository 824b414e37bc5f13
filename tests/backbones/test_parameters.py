"""What an optimiser asks: layers for layer-wise decay (0 at the image, one a block), and what does not decay."""

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


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("vit_pico", {"transformer.pos_embed", "transformer.cls_token"}),
        ("deit_pico", {"transformer.pos_embed", "transformer.cls_token", "transformer.dist_token"}),
        ("hybrid_pico", {"transformer.pos_embed", "transformer.cls_token"}),
        (
            "timm:vit_small_patch14_reg4_dinov2",
            {"transformer.pos_embed", "transformer.cls_token", "transformer.reg_token"},
        ),
        ("torchvision:vit_b_16", {"transformer.class_token", "transformer.encoder.pos_embedding"}),
        ("torchvision:resnet18", set()),
    ],
)
def test_positions_and_tokens_do_not_decay(name, without):
    with torch.device("meta"):
        body = bench.build(name, "linear", size=(70, 70) if "patch14" in name else SIZE, classes=2).backbone
    scales = {one for one in body.no_weight_decay() if one.endswith("gamma")}  # LayerScale, of one dimension
    assert body.no_weight_decay() - scales == without


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("swin_pico", {"relative_position_bias_table"}),
        ("swinv2_tiny", {"logit_scale", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"}),
        ("torchvision:swin_v2_t", {"logit_scale", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"}),
        ("torchvision:convnext_tiny", {"layer_scale"}),
        ("timm:convnext_atto", {"gamma"}),
        ("timm:levit_128s", {"attention_biases"}),
    ],
)
def test_biases_of_positions_and_scales_do_not_decay_and_all_else_does(name, endings):
    size = (256, 256) if "levit" in name else SIZE
    with torch.device("meta"):
        body = bench.build(name, "linear", size=size, classes=2).backbone
    without = body.no_weight_decay()
    named = dict(body.named_parameters())
    assert without <= named.keys()
    ends = tuple(f".{ending}" for ending in endings)
    assert {one for one in named if one.endswith(ends)} == without
    assert without
    assert any(named[one].ndim > 1 for one in named.keys() - without)


def test_a_head_names_what_its_paper_does_not_decay():
    model = bench.build("vit_pico", "segmenter_pico", size=SIZE, classes=3)
    assert model.head.no_weight_decay() == {"class_tokens"}
    assert model.head.no_weight_decay() <= dict(model.head.named_parameters()).keys()
    assert bench.build("vit_pico", "linear", size=SIZE, classes=3).head.no_weight_decay() == set()
