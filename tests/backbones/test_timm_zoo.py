import json
import re
from pathlib import Path

import pytest
import timm
import torch

import bench
from backbones import timm_plan, timm_zoo
from backbones.contract import TokenBackbone, Unsupported
from backbones.vit import PlainTransformer
from bench import catalogue

PYRAMID = (4, 8, 16, 32)
# Architecture: size, strides, and whether a head may enter its blocks.
SMALL = {
    "vit_tiny_patch16_224": ((64, 96), (16,) * 4, True),
    "vit_small_patch14_dinov2": ((56, 84), (14,) * 4, True),
    "vit_base_patch16_siglip_224": ((64, 96), (16,) * 4, True),
    "vit_base_patch16_224.mae": ((64, 96), (16,) * 4, True),
    "deit_tiny_distilled_patch16_224": ((64, 96), (16,) * 4, True),
    "vit_small_patch16_dinov3": ((64, 96), (16,) * 4, True),
    "eva02_tiny_patch14_224": ((56, 84), (14,) * 4, True),
    "xcit_nano_12_p16_224": ((64, 96), (16,) * 4, False),
    "gmlp_ti16_224": ((64, 96), (16,) * 4, False),
    "hiera_tiny_224": ((128, 192), PYRAMID, False),
    "test_convnext": ((64, 96), PYRAMID, False),
    "test_mambaout": ((64, 96), PYRAMID, False),
    "test_maxvit": ((128, 192), PYRAMID, False),
    "resnet18": ((64, 96), PYRAMID, False),
    "efficientnet_lite0": ((64, 96), PYRAMID, False),
    "swinv2_cr_tiny_224": ((64, 96), PYRAMID, False),
    "inception_v3": ((128, 192), PYRAMID, False),
    "crossvit_tiny_240": ((120, 240), (12, 12), False),
}


@pytest.fixture
def meta():
    with torch.device("meta"), torch.no_grad():
        yield


def make(name, *, size, patch=None, **choices):
    name = f"timm:{name}"
    patch = patch or catalogue.get("backbones", name).facts["patch"]
    return timm_zoo.build(name, patch=patch, size=size, **choices).eval()


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_what_the_levels_state(meta, name):
    size, strides, tokens = SMALL[name]
    body = make(name, size=size)
    assert tuple(level.stride for level in body.levels) == strides
    assert body.size == size
    assert isinstance(body, TokenBackbone) is tokens
    maps = body(torch.empty(2, 3, *size))
    assert [tuple(one.shape) for one in maps] == [
        (2, level.channels, size[0] // level.stride, size[1] // level.stride) for level in body.levels
    ]
    assert body.tokens == size[0] * size[1] // strides[0] ** 2
    body.expose([len(strides) - 1])
    (last,) = body(torch.empty(2, 3, *size))
    assert last.shape == maps[-1].shape


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224"])
def test_published_names_are_the_checkpoints(meta, name):
    """Also where timm renames what it takes the features from."""
    body = make(name, size=(64, 96))
    published = body.published.state_dict()
    whole = timm.create_model(name).state_dict()
    assert set(published) <= set(whole)
    assert all(re.match(r"(head|fc|norm|cls_attn|cls_token)", key) for key in set(whole) - set(published))
    published = dict(body.published.named_parameters())
    assert {id(parameter) for parameter in published.values()} == {id(parameter) for parameter in body.parameters()}


def test_maps_are_those_of_timm_channels_first():
    """MambaOut works channels last; what comes out is the same numbers, moved."""
    torch.manual_seed(0)
    body = make("test_mambaout", size=(64, 96))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = body(image)
        theirs = body.net((image - body.mean) / body.std)
    assert theirs[0].shape[1:3] == (16, 24)
    for one, other in zip(maps, theirs, strict=True):
        assert torch.equal(one, other.permute(0, 3, 1, 2))


def test_a_border_that_convolutions_leave_out_is_interpolated(meta):
    body = make("inception_v3", size=(128, 160))
    raw = body.net(torch.empty(1, 3, 128, 160))
    assert tuple(raw[-1].shape[-2:]) == (2, 3), "unpadded convolutions"
    assert tuple(body(torch.empty(1, 3, 128, 160))[-1].shape[-2:]) == (4, 5)


@pytest.mark.parametrize(("name", "patch"), [("test_vit", 16), ("test_resnet", 4), ("eva02_tiny_patch14_224", 14)])
def test_normalisation_is_that_of_the_weights(name, patch):
    body = timm_zoo.build(f"timm:{name}", patch=patch, size=(112, 112) if patch == 14 else (96, 96))
    config = timm.get_pretrained_cfg(name)
    assert body.mean.flatten().tolist() == pytest.approx(config.mean)
    assert body.std.flatten().tolist() == pytest.approx(config.std)


def test_a_tag_chooses_the_normalisation():
    entry = catalogue.get("backbones", "timm:vit_base_patch16_224.mae")
    assert entry.facts["tag"] == "mae"
    means = {tag: timm_plan.form_of(f"vit_base_patch16_224.{tag}").mean for tag in ("mae", "augreg_in21k")}
    assert means == {"mae": (0.485, 0.456, 0.406), "augreg_in21k": (0.5, 0.5, 0.5)}
    with pytest.raises(Unsupported, match=r"has no weights 'nope' in timm; there are: .*mae"):
        timm_zoo.facts("vit_base_patch16_224.nope")


def test_unknown_architecture_says_what_was_meant():
    with pytest.raises(Unsupported, match=r"did you mean .*timm:resnet50"):
        timm_zoo.facts("resnet5o")
    with pytest.raises(Unsupported, match=r"did you mean .*timm:convnext_tiny"):
        timm_zoo.build("timm:convnext_tinyy", patch=4, size=(64, 64))


def test_size_that_the_patch_does_not_divide_is_refused_not_cropped(meta):
    with pytest.raises(Unsupported, match=r"multiples of 14; nearest: 378x630, 378x644, 392x630, 392x644"):
        make("vit_small_patch14_dinov2", size=(384, 640))
    with pytest.raises(Unsupported, match=r"multiples of 32; nearest: "):
        make("resnet18", size=(65, 64))


@pytest.mark.slow
def test_size_that_only_timm_refuses_comes_with_one_that_works(meta):
    """HaloNet's blocks of 8 cells at stride 32; ConViT's square grid."""
    with pytest.raises(Unsupported, match=r"block_size.*nearest: 256x512") as error:
        make("halonet26t", size=(256, 320))
    assert error.value.nearest == ((256, 512),)
    with pytest.raises(Unsupported, match=r"cannot take 250x260 px: .*block_size.*nearest: 256x512"):
        make("halonet26t", size=(250, 260))
    with pytest.raises(Unsupported, match=r"timm raises RuntimeError.*nearest: 96x96"):
        make("convit_tiny", size=(64, 96))


def test_size_that_nothing_can_help_names_the_published_one(meta):
    with pytest.raises(Unsupported, match=r"the published one is 224x224") as error:
        make("efficientformer_l1", size=(256, 256))
    assert error.value.nearest == ()
    assert [level.stride for level in make("efficientformer_l1", size=(224, 224)).levels] == [4, 8, 16, 32]


def test_padding_takes_the_next_size_that_works(meta):
    for name, size, padded in (
        ("vit_small_patch14_dinov2", (64, 96), (70, 98)),
        ("convit_tiny", (64, 96), (96, 96)),
    ):
        model = bench.build(f"timm:{name}", "linear", size=size, classes=3, padding="pad").eval()
        assert model.backbone.size == padded
        assert model(torch.empty(1, 3, *size)).shape[:2] == (1, 3)


def test_patch_size_changes_where_the_architecture_has_one(meta):
    assert [level.stride for level in make("vit_tiny_patch16_224", patch=8, size=(64, 96)).levels] == [8] * 4
    assert make("eva02_tiny_patch14_224", patch=16, size=(64, 96)).tokens == 24
    body = make("swin_tiny_patch4_window7_224", patch=2, size=(64, 96))
    assert [level.stride for level in body.levels] == [2, 4, 8, 16]
    assert tuple(body(torch.empty(1, 3, 64, 96))[0].shape) == (1, 96, 32, 48)


@pytest.mark.parametrize(("name", "patch", "nearest"), [("resnet18", 8, "4"), ("vit_tiny_patch16_224", 65, "63, 64")])
def test_impossible_patch_is_refused_with_the_nearest(meta, name, patch, nearest):
    with pytest.raises(Unsupported, match=f"nearest: {nearest}"):
        make(name, patch=patch, size=(128, 128))


@pytest.mark.parametrize(
    ("name", "published"),
    [("swin_tiny_patch4_window7_224", (7, 7)), ("swinv2_tiny_window8_256", (8, 8)), ("swinv2_cr_tiny_224", (7, 7))],
)
def test_window_is_kept_or_scaled(meta, name, published):
    def first(window):
        body = make(name, size=(384, 640), window=window)
        return next(module.window_size for module in body.modules() if type(module).__name__.endswith("Block"))

    assert tuple(first("keep")) == published
    assert tuple(first("scale")) == (12, 20), "8 windows each way, as at the published size"


@pytest.mark.parametrize("kernel", ["fused", "unfused"])
def test_attention_kernel_is_chosen(meta, kernel):
    body = make("test_vit", size=(32, 32), attention=kernel)
    assert {m.fused_attn for m in body.modules() if hasattr(m, "fused_attn")} == {kernel == "fused"}


def test_library_tokens_are_found_by_class(meta):
    assert isinstance(make("test_vit", size=(32, 32)), PlainTransformer)
    assert not isinstance(make("vit_tiny_r_s16_p8_224", size=(64, 64)), TokenBackbone), "a hybrid has a stem"


def test_a_seed_repeats():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in make("test_vit", size=(32, 32)).parameters()])

    timm_plan.form_of.cache_clear()
    first = weights(0)
    assert torch.equal(first, weights(0)), "planning draws nothing"
    assert not torch.equal(first, weights(1))


def test_file_of_names_is_sorted_and_agrees_with_timm(meta):
    path = Path(timm_zoo.__file__).with_suffix(".json")
    known = json.loads(path.read_text(encoding="utf-8"))
    assert list(known) == sorted(known)
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(known) + 2, "one line a name"
    for name in ("resnet18", "vit_small_patch14_dinov2", "hiera_tiny_224", "test_vit"):
        assert known[name] == timm_zoo.facts(name)
