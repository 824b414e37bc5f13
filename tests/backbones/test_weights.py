"""Weights from files in the formats that libraries write, into backbones of other sizes, or an error that says why."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from backbones import deit, hybrid, swin, torchvision_zoo, vit, weights
from backbones.checkpoint import Checkpoint, Native, WeightsError, read


@pytest.fixture(scope="module")
def published():
    """The full model of a published ViT like vit_pico, with classifier, at 224 px."""
    torch.manual_seed(1)
    return VisionTransformer(img_size=224, patch_size=16, embed_dim=96, depth=4, num_heads=3, num_classes=10)


def body(name="vit_pico", patch=16, size=(224, 224), family=vit, **options):
    torch.manual_seed(0)
    return family.build(name, patch=patch, size=size, **options)


def save_plain(model, path):
    save_file(model.state_dict(), path)


def save_pth(model, path):
    torch.save(model.state_dict(), path)


def save_wrapped(model, path):
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3, "args": [1, "x"]}, path)


def save_averaged(model, path):
    others = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": others, "state_dict_ema": model.state_dict()}, path)


def save_whole_detector(model, path):
    """As from a training of ours: the backbone is a part, and the head is no business of it."""
    state = {f"backbone.transformer.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": {**state, "head.classify.weight": torch.zeros(3)}}, path)


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("safetensors", save_plain),
        ("pth", save_pth),
        ("pt", save_wrapped),
        ("bin", save_averaged),
        ("pth", save_whole_detector),
    ],
)
def test_a_published_file_loads_bit_by_bit_at_its_own_size(published, tmp_path, ending, write):
    path = tmp_path / f"published.{ending}"
    write(published, path)
    net = body()
    assert weights.load(net, read(path)) == ()
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        wanted = published.eval().forward_intermediates((image - net.mean) / net.std, indices=[3], norm=True)[1][0]
        assert torch.equal(net.eval()(image)[-1], wanted)


def test_half_precision_becomes_single(published):
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in published.state_dict().items()}
    net = body(patch=14, size=(196, 196))
    weights.load(net, Checkpoint(halves))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert torch.equal(net.published.blocks[0].mlp.fc1.weight, halves["blocks.0.mlp.fc1.weight"].float())


@pytest.mark.parametrize("patch", [8, 14, 32])
@pytest.mark.parametrize("size", [(224, 224), (448, 224)])
def test_another_size_loads_as_timm_itself_loads_it(published, patch, size):
    """The oracle: timm's own conversion of the same state for a model built at that patch and size."""
    net = body(patch=patch, size=size)
    resampled = weights.load(net, Checkpoint(published.state_dict()))
    other = VisionTransformer(img_size=size, patch_size=patch, embed_dim=96, depth=4, num_heads=3, num_classes=0)
    converted = timm.models.vision_transformer.checkpoint_filter_fn(published.state_dict(), other)
    for name, tensor in net.published.state_dict().items():
        torch.testing.assert_close(tensor, converted[name], msg=name)
    assert resampled[0].startswith("pos_embed: (1, 197, 96) -> (1, ")
    assert resampled[1] == f"patch_embed.proj.weight: (96, 3, 16, 16) -> (96, 3, {patch}, {patch})"


def test_bicubic_kernels_are_others(published):
    kernels = []
    for method in ("pinv", "bicubic"):
        net = body(patch=8)
        weights.load(net, Checkpoint(published.state_dict()), resample=method)
        kernels.append(net.published.patch_embed.proj.weight)
    assert not torch.allclose(*kernels)


def test_a_checkpoint_is_left_as_it_is(published):
    """Two loads from one checkpoint, in whatever order, are loads of the published weights."""
    checkpoint = Checkpoint({name: tensor.clone() for name, tensor in published.state_dict().items()})
    weights.load(body(patch=8), checkpoint)
    net = body()
    assert weights.load(net, checkpoint) == ()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in published.state_dict().items())


def test_distilled_and_windowed_and_hybrid_families_load_their_own():
    small, large = body("deit_pico", family=deit), body("deit_pico", size=(320, 160), family=deit)
    assert weights.load(large, Checkpoint(small.published.state_dict())) == ("pos_embed: (1, 198, 96) -> (1, 202, 96)",)
    assert torch.equal(large.published.pos_embed[:, :2], small.published.pos_embed[:, :2])
    small, large = body("hybrid_pico", family=hybrid), body("hybrid_pico", size=(320, 160), family=hybrid)
    assert [line.partition(":")[0] for line in weights.load(large, Checkpoint(small.published.state_dict()))] == [
        "transformer.pos_embed"
    ]
    with pytest.raises(
        WeightsError, match=r"not those of this Hybrid .* unknown: stem\.3.* cannot be resampled: stem\.0\.conv"
    ):
        weights.load(body("hybrid_pico", patch=8, family=hybrid), Checkpoint(small.published.state_dict()))


@pytest.fixture(scope="module")
def published_swin():
    """The full model that swin_pico is the backbone of, with window 4 at 128 px."""
    torch.manual_seed(1)
    net = SwinTransformer(
        img_size=128,
        patch_size=4,
        embed_dim=24,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        num_classes=5,
    )
    torch.nn.init.normal_(net.layers[0].blocks[0].attn.relative_position_bias_table)
    return net


def test_windows_follow_the_policy(published_swin):
    checkpoint = Checkpoint(published_swin.state_dict())
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    kept = body("swin_pico", patch=4, size=(256, 512), family=swin)
    assert weights.load(kept, checkpoint, window="keep") == (), "a window that is kept keeps its table"
    scaled = body("swin_pico", patch=4, size=(256, 512), family=swin, window="scale")
    resampled = weights.load(scaled, checkpoint, window="scale")
    assert f"{name}: (49, 1) -> (465, 1)" in resampled
    assert scaled.published.layers[0].blocks[0].attn.window_size == (8, 16)
    tiny = body("swin_pico", patch=4, size=(32, 32), family=swin)
    resampled = weights.load(tiny, checkpoint, window="keep")
    last = "layers.3.blocks.0.attn.relative_position_bias_table"
    assert f"{last}: (49, 8) -> (1, 8)" in resampled
    assert torch.equal(tiny.published.state_dict()[last], published_swin.state_dict()[last][24:25]), "offset (0, 0)"
    with torch.inference_mode():
        assert all(torch.isfinite(one).all() for one in scaled.eval()(torch.rand(1, 3, 256, 512)))


def test_tables_with_the_heads_first():
    """MaxViT keeps (heads, 2h-1, 2w-1)."""
    table, target = torch.randn(3, 13, 13), torch.zeros(3, 15, 27)
    found = weights._fit_table("x.relative_position_bias_table", table, target, body(), Native(), "scale")
    assert found.shape == target.shape
    assert torch.equal(
        weights._fit_table("x.relative_position_bias_table", table, torch.zeros_like(table), body(), Native(), "keep"),
        table,
    )


@pytest.mark.parametrize("family", ["vit_pico", "deit_pico", "swin_pico"])
def test_saved_weights_come_back_at_any_size(tmp_path, family):
    """At a size whose grid is not square, which a file without our note could not tell."""
    module = {"vit": vit, "deit": deit, "swin": swin}[family.partition("_")[0]]
    patch = 4 if module is swin else 16
    size = (64, 96) if module is swin else (96, 288)  # 6 x 18 = 108 cells, no square; Swin's last windows are 2 x 3
    first = body(family, patch=patch, size=size, family=module)
    first.mean.fill_(0.5)
    path = tmp_path / "deep" / "mine.safetensors"
    weights.save(first, path)
    again = body(family, patch=patch, size=size, family=module)
    torch.nn.init.zeros_(next(again.parameters()))
    assert weights.load(again, read(path)) == ()
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(again.mean, first.mean), "the normalisation belongs to the weights"
    other = body(family, patch=patch, size=(192, 192), family=module)
    assert weights.load(other, read(path))
    assert list(path.parent.iterdir()) == [path]


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        weights.save(body("swin_pico", patch=4, size=(64, 96), family=swin), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_what_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(WeightsError, match=r"saved as \.safetensors, .*\.pth came"):
        weights.save(body(), tmp_path / "x.pth")
    with torch.device("meta"):
        net = body()
    with pytest.raises(WeightsError, match="on the meta device has no weights"):
        weights.save(net, tmp_path / "x.safetensors")


def test_a_grid_that_nothing_tells_is_asked_for(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file(body(size=(96, 288)).published.state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"resampled: pos_embed .*\(108 positions beside 1 tok.*backbones.weights.save"
    ):
        weights.load(body(), read(path))
    known = Checkpoint(read(path).tensors, Native(grid=(6, 18)))
    assert weights.load(body(size=(96, 288)), known) == ()


def test_what_does_not_fit_is_listed(published):
    state = dict(published.state_dict())
    for index in range(3):
        for part in ("weight", "bias"):
            del state[f"blocks.{index}.norm1.{part}"], state[f"blocks.{index}.norm2.{part}"]
    state["blocks.0.attn.q_norm.weight"] = torch.zeros(32)
    state["blocks.3.mlp.fc1.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        weights.load(body(), Checkpoint(state, Native(whole=True)))
    text = str(caught.value)
    assert "this PlainTransformer with 54 tensors" in text
    assert "12 missing: blocks.0.norm1.weight, blocks.0.norm1.bias, " in text
    assert " and 4 more; 1 unknown: blocks.0.attn.q_norm.weight; " in text
    assert "1 of a shape that cannot be resampled: blocks.3.mlp.fc1.bias (7,) for (384,)" in text


def test_another_width_is_an_error_and_no_resampling(published):
    wide = VisionTransformer(img_size=224, patch_size=16, embed_dim=192, depth=4, num_heads=3, num_classes=0)
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 197, 192\) for \(1, 197, 96\)"):
        weights.load(body(), Checkpoint(wide.state_dict()))


def test_nothing_is_loaded_when_something_does_not_fit(published):
    net, state = body(), dict(published.state_dict())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    del state["norm.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: norm\.weight$"):
        weights.load(net, Checkpoint(state))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_module_that_the_file_has_and_the_network_lacks_is_left_out_only_where_that_is_known(published):
    state = {**published.state_dict(), "decoder.weight": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"1 unknown: decoder\.weight$"):
        weights.load(body(), Checkpoint(state))
    weights.load(body(), Checkpoint(state, Native(whole=True)))
    state["blocks.4.norm1.weight"] = torch.zeros(96)
    with pytest.raises(WeightsError, match=r"1 unknown: blocks\.4\.norm1\.weight$"):
        weights.load(body(), Checkpoint(state, Native(whole=True)))


def test_a_teacher_beside_its_student_is_asked_about(published):
    state = {
        f"{who}.{name}": tensor for who in ("teacher", "student") for name, tensor in published.state_dict().items()
    }
    with pytest.raises(WeightsError, match=r"54 tensors of this backbone twice, under '\w+\.' and '\w+\.'"):
        weights.load(body(), Checkpoint(state))


def test_buffers_that_a_size_decides_stay_its_own():
    """torchvision saves the indices of its windows with the weights."""
    net = torchvision_zoo.build("torchvision:swin_t", patch=4, size=(64, 64))
    name = "features.1.0.attn.relative_position_index"
    wanted = net.published.state_dict()[name].clone()
    state = dict(net.published.state_dict())
    weights.load(net, Checkpoint({**state, name: torch.zeros_like(wanted)}))
    assert torch.equal(net.published.state_dict()[name], wanted)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_integers_are_no_weights(published, tmp_path, dtype):
    tensors = published.state_dict()
    tensors["blocks.0.mlp.fc1.weight"] = tensors["blocks.0.mlp.fc1.weight"].to(dtype)
    save_file(tensors, tmp_path / "w.safetensors")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"1 of these \d+ tensors hold others: blocks.0.mlp.fc1.weight \({kind}\)"):
        weights.load(body(), read(tmp_path / "w.safetensors"))
