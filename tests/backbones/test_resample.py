"""Resampling of what belongs to one patch size, grid or window: exact where it can be, close where it cannot."""

import math

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.layers.patch_embed import _compute_resize_matrix
from torch.nn.functional import conv2d, cosine_similarity, interpolate

from backbones import vit, weights
from backbones.checkpoint import Checkpoint
from backbones.resample import patch_kernel, position_map, positions, window_bias


def smooth_kernel(patch, width=24, seed=0):
    """(D, 3, P, P) of random cosine waves whose strength falls with their frequency, as in trained embeddings."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(patch, dtype=torch.float32)
    waves = torch.cos(math.pi * order[:, None] * (order[None] + 0.5) / patch)
    frequency = torch.hypot(order[:, None], order[None])
    strength = torch.randn(width, 3, patch, patch, generator=generator) / (1 + frequency) ** 2
    return torch.einsum("dcij,ix,jy->dcxy", strength, waves, waves)


def smooth_positions(grid, width=24, prefix=1, seed=0):
    """(1, N, D) of waves over the unit square: a function of the place alone, whatever the grid."""
    generator = torch.Generator().manual_seed(seed)
    y, x = ((torch.arange(side) + 0.5) / side for side in grid)
    phase = torch.rand(width, 3, generator=generator) * 2 * math.pi
    values = torch.cos(2 * y[:, None, None] * phase[:, 0] + 2 * x[None, :, None] * phase[:, 1] + phase[:, 2])
    return torch.cat([torch.ones(prefix, width), values.flatten(0, 1)])[None]


def picture(side, seed=0):
    """(1, 3, side, side): the same smooth picture, and an edge, at every size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator) - 0.5
    large = interpolate(coarse, (672, 672), mode="bicubic") + (torch.arange(672) > 250).float() * 0.5
    return interpolate(large, (side, side), mode="bilinear", antialias=True)


def relative_error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("method", ["pinv", "bicubic"])
def test_the_native_patch_is_the_kernel_itself(method):
    kernel = torch.randn(4, 3, 7, 5)
    assert patch_kernel(kernel, (7, 5), method) is kernel


@pytest.mark.parametrize("new", [(18, 18), (24, 20), (32, 32), (16, 19)])
def test_a_larger_kernel_gives_the_same_token_for_the_enlarged_patch(new):
    """FlexiViT's property: <x, w> = <B x, w'> for every x, smooth or not."""
    torch.manual_seed(0)
    kernel, patch = torch.randn(8, 3, 16, 16), torch.randn(5, 3, 16, 16)
    enlarged = interpolate(patch, new, mode="bicubic", antialias=True)
    token = torch.einsum("dchw,bchw->bd", kernel, patch)
    torch.testing.assert_close(
        torch.einsum("dchw,bchw->bd", patch_kernel(kernel, new), enlarged), token, rtol=1e-4, atol=1e-3
    )
    plain = torch.einsum("dchw,bchw->bd", patch_kernel(kernel, new, "bicubic"), enlarged)
    assert relative_error(plain, token) > 0.1, "plain interpolation has no such property"


@pytest.mark.parametrize("new", [(8, 8), (12, 14), (14, 14)])
def test_a_smaller_kernel_is_the_nearest_one(new):
    """Of all kernels of that size it answers to resized white noise most like the old one: every change is worse."""
    torch.manual_seed(0)
    kernel = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    resize = _compute_resize_matrix((16, 16), new, "bicubic", True, torch.device("cpu"), torch.float64)
    found = patch_kernel(kernel.float(), new).double().flatten(1)
    distance = (kernel.flatten(1) - found @ resize).square().sum()
    for _ in range(5):
        other = found + 1e-2 * torch.randn_like(found)
        assert (kernel.flatten(1) - other @ resize).square().sum() > distance


@pytest.mark.parametrize("new", [(8, 8), (14, 14), (15, 17), (32, 32)])
def test_single_precision_is_enough(new):
    kernel = smooth_kernel(16)
    resize = _compute_resize_matrix((16, 16), new, "bicubic", True, torch.device("cpu"), torch.float64)
    exact = (kernel.double().flatten(2) @ torch.linalg.pinv(resize)).reshape(24, 3, *new)
    assert relative_error(patch_kernel(kernel, new).double(), exact) < 1e-5


def test_kernels_and_positions_are_those_of_timm():
    kernel, embedding = torch.randn(4, 3, 16, 16), torch.randn(1, 197, 8)
    assert torch.equal(patch_kernel(kernel, (14, 14)), resample_patch_embed(kernel, [14, 14]))
    assert torch.equal(
        positions(embedding, (14, 14), (10, 20), prefix=1),
        resample_abs_pos_embed(embedding, [10, 20], [14, 14], num_prefix_tokens=1),
    )


@pytest.mark.parametrize("patch", [8, 12, 14, 18, 20, 32])
def test_tokens_of_a_resized_picture_change_little(patch):
    """The same picture on the same grid in smaller or larger patches."""
    kernel = smooth_kernel(16)
    wanted = conv2d(picture(14 * 16), kernel, stride=16)
    change = {
        method: relative_error(
            conv2d(picture(14 * patch), patch_kernel(kernel, (patch, patch), method), stride=patch), wanted
        )
        for method in ("pinv", "bicubic")
    }
    assert change["pinv"] < 0.02
    # Plain interpolation scales a token with the pixels that it sums over.
    assert change["bicubic"] == pytest.approx(abs((patch / 16) ** 2 - 1), rel=0.05)


def test_steps_lose_what_one_step_from_the_published_kernel_keeps():
    """Why everything starts from the checkpoint: the way 16 -> 8 -> 16 does not come back."""
    kernel = smooth_kernel(16)
    assert relative_error(patch_kernel(patch_kernel(kernel, (8, 8)), (16, 16)), kernel) > 0.05
    assert patch_kernel(kernel, (16, 16)) is kernel
    embedding = torch.randn(1, 197, 8)
    there_and_back = positions(positions(embedding, (14, 14), (7, 7), prefix=1), (7, 7), (14, 14), prefix=1)
    assert relative_error(there_and_back, embedding) > 0.5


@pytest.mark.parametrize("grid", [(14, 14), (6, 11)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_native_grid_is_the_embedding_itself(grid, prefix):
    embedding = torch.randn(1, prefix + grid[0] * grid[1], 8)
    assert positions(embedding, grid, grid, prefix=prefix) is embedding
    maps = embedding[:, prefix:].unflatten(1, grid)
    assert torch.equal(position_map(maps, grid), maps)


def test_positions_of_the_same_number_on_another_grid_are_resampled():
    """18 x 32 is not 24 x 24, though both have 576 cells."""
    embedding = smooth_positions((24, 24))
    found = positions(embedding, (24, 24), (18, 32), prefix=1)
    assert found.shape == embedding.shape
    assert relative_error(found, smooth_positions((18, 32))) < 0.05
    assert relative_error(embedding, smooth_positions((18, 32))) > 0.3


@pytest.mark.parametrize(("old", "new"), [((14, 14), (16, 16)), ((14, 14), (12, 20)), ((10, 20), (14, 16))])
def test_smooth_positions_stay_where_they_are(old, new):
    embedding = smooth_positions(old, prefix=2)
    found = positions(embedding, old, new, prefix=2)
    assert torch.equal(found[:, :2], embedding[:, :2]), "tokens without a place stay"
    assert relative_error(found, smooth_positions(new, prefix=2)) < 0.05
    rows = position_map(embedding[:, 2:].unflatten(1, old), new).flatten(1, 2)
    torch.testing.assert_close(rows, found[:, 2:])


def test_positions_that_are_no_such_grid_are_refused():
    with pytest.raises(ValueError, match=r"197 positions are no 2 tokens and a grid of 14x14 \(198\)"):
        positions(torch.zeros(1, 197, 8), (14, 14), (7, 7), prefix=2)


def offsets(window):
    """((2h-1)(2w-1), 3): row offset, column offset and 1 for each bias."""
    y, x = torch.meshgrid(*(torch.arange(1 - side, side, dtype=torch.float32) for side in window), indexing="ij")
    return torch.stack([y.flatten(), x.flatten(), torch.ones(y.numel())], dim=1)


@pytest.mark.parametrize("window", ["keep", "scale"])
@pytest.mark.parametrize("shape", [(7, 7), (4, 6)])
def test_the_native_window_is_the_table_itself(shape, window):
    table = torch.randn((2 * shape[0] - 1) * (2 * shape[1] - 1), 3)
    assert window_bias(table, shape, shape, window) is table


@pytest.mark.parametrize(("old", "new"), [((7, 7), (14, 14)), ((7, 7), (8, 14)), ((4, 6), (8, 9)), ((8, 8), (4, 4))])
def test_a_scaled_window_stretches_its_offsets(old, new):
    table = window_bias(offsets(old), old, new, "scale")
    wanted = offsets(new)
    torch.testing.assert_close(table[:, 2], wanted[:, 2])
    middle = len(wanted) // 2
    assert table[middle, :2].abs().max() < 1e-5, "the bias of a token for itself stays"
    torch.testing.assert_close(table, table.flip(0) * torch.tensor([-1.0, -1.0, 1.0]), rtol=0, atol=1e-5)
    inner = (wanted[:, 0].abs() < new[0] - 2) & (wanted[:, 1].abs() < new[1] - 2)
    for axis in (0, 1):
        share = (2 * old[axis] - 1) / (2 * new[axis] - 1)
        torch.testing.assert_close(table[inner, axis], wanted[inner, axis] * share, rtol=0, atol=0.1)


def test_a_kept_window_on_a_small_map_loses_its_outer_offsets_only():
    """What is one token away in a window of 7 is one token away in a window of 4."""
    assert torch.equal(window_bias(offsets((7, 7)), (7, 7), (4, 4), "keep"), offsets((4, 4)))
    assert torch.equal(window_bias(offsets((7, 7)), (7, 7), (2, 7), "keep"), offsets((2, 7)))
    mixed = window_bias(offsets((4, 4)), (4, 4), (2, 8), "keep").reshape(3, 15, 3)
    assert torch.equal(mixed[:, 7, 0], torch.tensor([-1.0, 0.0, 1.0])), "one side smaller, the other larger"


def test_biases_of_extra_tokens_stay():
    """BEiT: three more biases, from and to its class token."""
    table = torch.cat([offsets((3, 3)), torch.full((3, 3), 7.0)])
    found = window_bias(table, (3, 3), (5, 4))
    assert len(found) == 9 * 7 + 3
    assert torch.equal(found[-3:], table[-3:])
    with pytest.raises(ValueError, match="a window of 7x7 has 169 offsets and the table 28"):
        window_bias(table, (7, 7), (5, 5))


@pytest.fixture(scope="module")
def structured():
    """A ViT at 112 px and patch 16 whose embeddings have the structure of trained ones."""
    torch.manual_seed(0)
    body = vit.build("vit_pico", patch=16, size=(112, 112)).eval()
    state = dict(body.published.state_dict())
    kernel = smooth_kernel(16, width=96)
    # What a patch shows and where it is weigh alike.
    state["patch_embed.proj.weight"] = kernel / conv2d(picture(112), kernel, stride=16).std()
    state["pos_embed"] = smooth_positions((7, 7), width=96)
    # Random blocks hardly move a token; of the strength of trained ones they do.
    state = {
        name: t * 4 if name.endswith(("qkv.weight", "fc1.weight", "fc2.weight")) else t for name, t in state.items()
    }
    body.published.load_state_dict(state)
    return Checkpoint({name: tensor.clone() for name, tensor in state.items()}), body


def features(checkpoint, patch, size, change=None, resample="pinv"):
    body = vit.build("vit_pico", patch=patch, size=size).eval()
    weights.load(body, checkpoint, resample=resample)
    if change is not None:
        with torch.no_grad():
            change(body.published)
    image = interpolate(picture(448) + 0.5, size, mode="bilinear", antialias=True)
    with torch.inference_mode():
        return body(image)[-1]


def likeness(one, other):
    """Mean cosine of the tokens, the mean token taken off; on the smaller grid."""
    grid = tuple(min(pair) for pair in zip(one.shape[-2:], other.shape[-2:], strict=True))
    one, other = (interpolate(each, grid, mode="bilinear", antialias=True) for each in (one, other))
    mean = one.mean((2, 3), keepdim=True)
    return float(cosine_similarity(one - mean, other - mean).mean())


@pytest.mark.parametrize("patch", [14, 18])
def test_features_survive_another_patch_size(structured, patch):
    checkpoint, body = structured
    image = interpolate(picture(448) + 0.5, (112, 112), mode="bilinear", antialias=True)
    with torch.inference_mode():
        wanted = body(image)[-1]
    size = (7 * patch, 7 * patch)
    fitted = likeness(features(checkpoint, patch, size), wanted)
    plain = likeness(features(checkpoint, patch, size, resample="bicubic"), wanted)
    fresh = likeness(
        features(checkpoint, patch, size, lambda net: net.patch_embed.proj.weight.normal_(std=0.02)), wanted
    )
    assert fitted > 0.99
    assert fitted > plain > fresh


@pytest.mark.parametrize("size", [(128, 128), (96, 144)])
def test_features_survive_another_grid(structured, size):
    checkpoint, body = structured
    image = interpolate(picture(448) + 0.5, (112, 112), mode="bilinear", antialias=True)
    with torch.inference_mode():
        wanted = body(image)[-1]

    def shuffle(net):
        order = torch.randperm(net.pos_embed.shape[1] - 1, generator=torch.Generator().manual_seed(0)) + 1
        net.pos_embed[:, 1:] = net.pos_embed[:, order]

    fitted = likeness(features(checkpoint, 16, size), wanted)
    shuffled = likeness(features(checkpoint, 16, size, shuffle), wanted)
    assert fitted > 0.9
    assert fitted > shuffled + 0.05
