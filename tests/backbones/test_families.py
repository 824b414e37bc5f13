"""The families of vit, deit, swin and hybrid: published sizes and names, windows, stems, attention kernels."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.models.swin_transformer_v2 import WindowAttention as CosineAttention
from torch import nn
from torch.overrides import TorchFunctionMode

from backbones import attention, deit, hybrid, swin, vit
from backbones.attention import set_attention
from backbones.contract import Level, Unsupported

FAMILIES = (vit, deit, swin, hybrid)
FACTS = {name: (family, facts) for family in FAMILIES for name, facts in family.CATALOGUE.items()}
PUBLISHED = {
    # Parameters with a classifier of 1000 classes, and of that classifier (and Swin's norm before it).
    "vit_tiny": (5_717_416, 193_000),
    "vit_small": (22_050_664, 385_000),
    "vit_base": (86_567_656, 769_000),
    "vit_large": (304_326_632, 1_025_000),
    "vit_huge": (632_045_800, 1_281_000),
    "deit_tiny": (5_910_800, 2 * 193_000),
    "deit_small": (22_436_432, 2 * 385_000),
    "deit_base": (87_338_192, 2 * 769_000),
    "deit3_small": (22_059_496, 385_000),
    "deit3_medium": (38_849_512, 513_000),
    "deit3_base": (86_585_320, 769_000),
    "deit3_large": (304_374_760, 1_025_000),
    "swin_tiny": (28_288_354, 769_000 + 2 * 768),
    "swin_small": (49_606_258, 769_000 + 2 * 768),
    "swin_base": (87_768_224, 1_025_000 + 2 * 1024),
    "swin_large": (196_532_476, 1_537_000 + 2 * 1536),
    "swinv2_tiny": (28_347_154, 769_000 + 2 * 768),
    "swinv2_small": (49_728_418, 769_000 + 2 * 768),
    "swinv2_base": (87_918_816, 1_025_000 + 2 * 1024),
    "swinv2_large": (196_739_932, 1_537_000 + 2 * 1536),
    "hybrid_r26_s32": (36_431_912, 385_000),
    "hybrid_r50_b16": (98_659_112, 769_000),
    "hybrid_r50_l32": (328_994_856, 1_025_000),
}
INITIAL = {
    "uniform_",
    "normal_",
    "trunc_normal_",
    "constant_",
    "zeros_",
    "ones_",
    "fill_",
    "zero_",
    "copy_",
    "__setitem__",
} | {f"{kind}_{which}_" for kind in ("kaiming", "xavier") for which in ("uniform", "normal")}


class WithoutInitialValues(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in INITIAL:
            return (args or tuple(kwargs.values()))[0]
        return func(*args, **kwargs)


@contextmanager
def shapes_only():
    """The meta device, without drawing the initial values that it does not keep: several times quicker."""
    with torch.device("meta"), WithoutInitialValues():
        yield


def build(name, size, *, patch=None, **choices):
    family, facts = FACTS[name]
    return family.build(name, patch=patch or facts["patch"], size=size, **choices)


def published_size(name):
    pixels = FACTS[name][1].get("input", 224)
    return (pixels, pixels)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_their_names_are_the_published_ones(name):
    facts = FACTS[name][1]
    with shapes_only():
        body = build(name, published_size(name))
        theirs = timm.create_model(facts["timm"], num_classes=0)
    total, classifier = PUBLISHED[name]
    assert parameters(body) == total - classifier
    wanted = shapes(theirs)
    if name.startswith("swin"):
        del wanted["norm.weight"], wanted["norm.bias"]
    assert shapes(body.published) == wanted


def test_every_entry_with_a_checkpoint_is_listed_above_and_names_the_default_tag():
    stated = {name: facts for name, (_, facts) in FACTS.items() if "timm" in facts}
    assert set(stated) == set(PUBLISHED)
    for name, facts in stated.items():
        known = timm.get_pretrained_cfg(facts["timm"])
        assert (name, facts["tag"]) == (name, known.tag)
        assert known.input_size[1:] == published_size(name)


@pytest.mark.parametrize("patch", [1, 8, 14, 16, 32, 64])
@pytest.mark.parametrize("name", ["vit_pico", "deit_pico"])
def test_plain_transformers_take_any_patch(name, patch):
    size = (2 * patch, 3 * patch)
    with torch.device("meta"):
        body = build(name, size, patch=patch)
        maps = body(torch.empty(1, 3, *size))
    assert [tuple(one.shape) for one in maps] == [(1, body.width, 2, 3)] * 4
    assert body.transformer.patch_embed.proj.weight.shape[-2:] == (patch, patch)


@pytest.mark.parametrize("patch", [8, 16, 32])
@pytest.mark.parametrize("name", ["vit_large", "vit_huge", "deit3_large"])
def test_another_patch_changes_the_embedding_alone(name, patch):
    with shapes_only():
        body = build(name, (2 * patch, 3 * patch), patch=patch)
    total, classifier = PUBLISHED[name]
    native = FACTS[name][1]["patch"]
    positions = (224 // native) ** 2 - 6
    weights = 3 * (native**2 - patch**2)
    assert parameters(body) == total - classifier - (positions + weights) * body.width


@pytest.mark.parametrize("name", ["vit_pico", "deit_pico"])
def test_levels_are_the_intermediate_layers_of_timm(name):
    torch.manual_seed(0)
    body = build(name, (64, 96)).eval()
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        maps = body(image)
        theirs = body.transformer.get_intermediate_layers(
            body.normalised(image), n=list(body.taps), reshape=True, norm=True
        )
    assert len(maps) == 4
    for one, other in zip(maps, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_deit3_adds_positions_to_the_grid_alone_and_shows_its_blocks():
    torch.manual_seed(0)
    body = build("deit3_small", (32, 48)).eval()
    assert body.prefix == 1
    assert body.transformer.pos_embed.shape == (1, 6, 384)
    scale = body.transformer.blocks[0].ls1.gamma
    assert torch.equal(scale, torch.full_like(scale, 1e-4))
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        tokens = body.embed(image)
        for index in range(body.depth):
            tokens = body.block(index, tokens, torch.ones(1, 1, 7, 7, dtype=torch.bool))
        last = body.norm(tokens)[:, 1:].transpose(1, 2).reshape(1, 384, 2, 3)
        assert torch.allclose(body(image)[-1], last, atol=1e-5)


def window_counts(body):
    """Windows (down, across) of the first block of each stage, and the windows (h, w) in tokens."""
    blocks = [stage.blocks[0] for stage in body.transformer.layers]
    counts = [
        tuple(-(-side // window) for side, window in zip(block.input_resolution, block.window_size, strict=True))
        for block in blocks
    ]
    return counts, [tuple(block.window_size) for block in blocks]


@pytest.mark.parametrize("name", ["swin_pico", "swin_tiny", "swinv2_tiny", "swinv2_large"])  # the others alike
def test_windows_keep_their_tokens_or_their_number(name):
    facts = swin.CATALOGUE[name]
    window, pixels = facts["window"], facts["input"]
    with shapes_only():
        native, also_native = (build(name, (pixels, pixels), window=policy) for policy in ("keep", "scale"))
        kept, scaled = (build(name, (pixels, 2 * pixels), window=policy) for policy in ("keep", "scale"))
    assert window_counts(native) == window_counts(also_native)
    assert shapes(native) == shapes(also_native)
    counts, extents = window_counts(native)
    # The last map of the model published at 192 px is smaller than its window.
    last = min(window, pixels // 32)
    assert extents == [(window, window)] * 3 + [(last, last)]
    assert window_counts(kept) == (
        [(down, 2 * across) for down, across in counts[:3]] + [(1, -(-pixels // 16 // window))],
        [(window, window)] * 3 + [(last, min(window, pixels // 16))],
    )
    assert window_counts(scaled) == (counts, [(window, 2 * window)] * 3 + [(last, 2 * last)])


@pytest.mark.parametrize("name", ["swin_tiny", "swinv2_tiny"])
def test_scaled_windows_are_those_of_set_input_size(name):
    with shapes_only():
        ours = build(name, (384, 640), window="scale").transformer
        theirs = timm.create_model(FACTS[name][1]["timm"], num_classes=0)
    with torch.device("meta"):
        theirs.set_input_size((384, 640))
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert [block.window_size for block in one.blocks] == [block.window_size for block in other.blocks]
        assert [block.shift_size for block in one.blocks] == [block.shift_size for block in other.blocks]


def test_scaled_windows_are_whole_at_every_size_that_the_mergings_allow():
    for name, facts in swin.CATALOGUE.items():
        share, rest = divmod(facts["input"], 4 * facts["window"])
        assert (name, rest, 8 % share) == (name, 0, 0)


def test_window_policies_see_different_parts_of_an_image():
    """A change in one corner reaches further through a scaled window than through a kept one, in one block."""
    reached = {}
    for policy in ("keep", "scale"):
        torch.manual_seed(0)
        body = build("swin_pico", (256, 256), window=policy).eval()
        block = body.transformer.layers[0].blocks[0]
        map_ = torch.rand(1, 64, 64, 24)
        other = map_.clone()
        other[:, 0, 0, 0] += 1
        with torch.inference_mode():
            reached[policy] = int(((block(map_) - block(other)).abs().sum(-1) > 1e-7).sum())
    assert reached == {"keep": 16, "scale": 64}


def test_second_version_takes_a_map_that_the_window_does_not_divide():
    """Against the same blocks on a map that was padded by hand: padding is zeros, and only image comes back."""
    torch.manual_seed(0)
    body = build("swinv2_tiny", (96, 160)).eval()  # 24 x 40 cells: 3 x 5 windows; 12 x 20: 2 x 3, padded
    block = body.transformer.layers[1].blocks[0]
    assert block.window_size == (8, 8)
    assert body.transformer.layers[1].blocks[1].shift_size == (4, 4)
    map_ = torch.rand(1, 12, 20, 192)
    with torch.inference_mode():
        padded = block._attn(torch.nn.functional.pad(map_, (0, 0, 0, 4, 0, 4)))[:, :12, :20]
        assert torch.allclose(block._attn(map_), padded, atol=1e-6)
        # Blocks start as the identity (their last norm is zero): with it open, the whole is finite and not constant.
        for module in body.transformer.layers.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
        maps = body(torch.rand(1, 3, 96, 160))
    assert all(torch.isfinite(one).all() and one.std() > 0 for one in maps)


def test_second_version_means_the_same_by_an_offset_in_every_window():
    tables = {}
    for policy in ("keep", "scale"):
        body = build("swinv2_tiny", (512, 512), window=policy)
        tables[policy] = body.transformer.layers[0].blocks[0].attn.relative_coords_table[0]
    assert tables["keep"].shape == (15, 15, 2)
    assert tables["scale"].shape == (31, 31, 2)
    assert torch.equal(tables["keep"], tables["scale"][8:-8, 8:-8])


@pytest.mark.parametrize(
    ("name", "patch", "strides"),
    [
        ("hybrid_pico", 8, (4, 8, 8)),
        ("hybrid_tiny", 32, (4, 8, 32)),
        ("hybrid_r26_s32", 64, (4, 8, 16, 32, 64)),
        ("hybrid_r50_b16", 16, (4, 8, 16)),
    ],
)
def test_hybrids_show_the_maps_of_the_stem_that_are_finer_than_the_tokens(name, patch, strides):
    size = (2 * patch, 3 * patch)
    with shapes_only():
        body = build(name, size, patch=patch)
    with torch.device("meta"):
        maps = body(torch.empty(1, 3, *size))
    assert tuple(level.stride for level in body.levels) == strides
    wanted = [(1, level.channels, size[0] // level.stride, size[1] // level.stride) for level in body.levels]
    assert [tuple(one.shape) for one in maps] == wanted
    if name == "hybrid_r50_b16":
        assert body.levels[:2] == (Level(4, 256), Level(8, 512))
        assert body.levels[-1] == Level(patch, 768)


def test_a_residual_stem_cannot_end_before_its_stride():
    with pytest.raises(Unsupported, match=r"ends at stride 16 .*nearest: 16, 32"):
        build("hybrid_r50_b16", (64, 64), patch=8)


def test_residual_stem_runs_once_and_its_maps_lead_to_those_of_timm():
    torch.manual_seed(0)
    body = build("hybrid_r26_s32", (64, 96)).eval()
    stem = body.transformer.patch_embed.backbone
    seen = []
    hooks = [stem.stem.register_forward_hook(lambda *_: seen.append("stem"))]
    hooks += [stage.register_forward_hook(lambda *args: seen.append(args[-1])) for stage in stem.stages]
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        maps = body(image)
        assert len(seen) == 5
        assert seen[0] == "stem"
        for one, other in zip(maps[:3], seen[1:4], strict=True):
            assert torch.equal(one, other)
        for hook in hooks:
            hook.remove()
        theirs = body.transformer.forward_intermediates(
            (image - body.mean) / body.std, indices=1, norm=True, intermediates_only=True
        )
    assert torch.allclose(maps[-1], theirs[0], atol=1e-5)


def test_a_kernel_that_a_model_does_not_have_is_refused_and_nothing_changes():
    with shapes_only():
        with pytest.raises(Unsupported, match=r"swin_transformer_v2\.WindowAttention.*take attention='unfused'"):
            build("swinv2_tiny", (64, 64), attention="fused")
        build("swinv2_tiny", (64, 64), attention="unfused")
        mixed = nn.ModuleList([TimmAttention(8, 1), CosineAttention(8, (2, 2), 1)])
        own = nn.MultiheadAttention(8, 1)
    before = mixed[0].fused_attn
    with pytest.raises(Unsupported):
        set_attention(mixed, "fused")
    assert mixed[0].fused_attn == before
    set_attention(mixed, "unfused")
    assert mixed[0].fused_attn is False
    for kernel in ("fused", "unfused"):
        with pytest.raises(Unsupported, match="take attention='auto'"):
            set_attention(own, kernel)
        set_attention(nn.Conv2d(1, 1, 1), kernel)
    set_attention(own, "auto")


def test_a_kernel_is_set_in_classes_derived_from_a_known_one():
    class Derived(TimmAttention):
        pass

    module = Derived(8, 1)
    for kernel in ("unfused", "fused"):
        set_attention(module, kernel)
        assert module.fused_attn is (kernel == "fused")


# Softmax, but of no attention between tokens: gates, weights of branches, state-space mixing, classifiers.
NO_ATTENTION = {
    "timm.layers.global_context.GlobalContext",
    "timm.layers.lambda_layer.LambdaLayer",
    "timm.layers.selective_kernel.SelectiveKernelAttn",
    "timm.layers.split_attn.RadixSoftmax",
    "timm.layers.split_attn.SplitAttn",
    "timm.models.efficientvim.EfficientViM",
    "timm.models.efficientvim.EfficientViMDistilled",
    "timm.models.efficientvim.HSMSSD",
}


def test_every_attention_of_the_installed_timm_is_known():
    """A class that timm adds has to be sorted in, or a recorded kernel would be a guess."""
    switched, other, declared = set(), set(), set()
    root = Path(timm.__file__).parent
    for path in [*root.glob("layers/*.py"), *root.glob("models/*.py")]:
        text = path.read_text(encoding="utf-8")
        for chunk in re.split(r"^(?=class |def |@)", text, flags=re.MULTILINE):
            found = re.match(r"class (\w+)", chunk)
            if found is None:
                continue
            name = f"timm.{path.parent.name}.{path.stem}.{found[1]}"
            declared.add(name)
            if "self.fused_attn" in chunk:
                switched.add(name)
            elif "softmax" in chunk.lower() or "scaled_dot_product" in chunk:
                other.add(name)
    assert switched == attention.SWITCHED & declared
    assert (
        other == {name for name in attention.UNFUSED if name.startswith("timm.")} & declared | NO_ATTENTION & declared
    )
    assert len(switched) > 20
    assert len(other) > 20
