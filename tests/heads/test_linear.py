"""The linear head: a sum of linear maps, at the finest resolution."""

import pytest
import torch
from torch.nn.functional import interpolate

from backbones.contract import Level
from heads.linear import build


def test_sums_its_levels_at_the_finest_resolution() -> None:
    head = build("linear", levels=(Level(4, 6), Level(16, 10)), classes=3)
    fine, coarse = torch.randn(2, 6, 8, 12), torch.randn(2, 10, 2, 3)
    weight_0, bias, weight_1 = (
        head.get_parameter(f"classifiers.{name}") for name in ("0.weight", "0.bias", "1.weight")
    )
    with torch.no_grad():
        bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    # The norm by hand: over the channels of each cell.
    normed = [(x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (fine, coarse)]
    expected = torch.einsum("bchw,kc->bkhw", normed[0], weight_0[..., 0, 0]) + bias[:, None, None]
    expected += interpolate(
        torch.einsum("bchw,kc->bkhw", normed[1], weight_1[..., 0, 0]), size=(8, 12), mode="bilinear"
    )
    torch.testing.assert_close(head((fine, coarse), (32, 48)), expected, atol=1e-4, rtol=1e-4)


def test_scale_of_a_level_does_not_matter() -> None:
    head = build("linear", levels=(Level(8, 16),), classes=2)
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(head((x,), (32, 32)), head((100 * x,), (32, 32)), atol=1e-3, rtol=1e-3)


def test_learns_to_tell_two_halves_apart() -> None:
    torch.manual_seed(0)
    head = build("linear", levels=(Level(4, 8),), classes=2)
    x = torch.randn(1, 8, 4, 4)
    x[..., 2:] += torch.randn(8, 1, 1) * 4
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[..., 8:] = 1
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        head.loss(head((x,), (16, 16)), target).backward()
        optimizer.step()
    assert (head.decode(head((x,), (16, 16)), (16, 16)) == target).float().mean().item() > 0.9


def test_other_precisions_layouts_and_the_meta_device() -> None:
    levels = (Level(16, 8), Level(16, 8), Level(32, 8))
    head = build("linear", levels=levels, classes=4)
    features = (torch.randn(2, 8, 3, 5), torch.randn(2, 8, 3, 5), torch.randn(2, 8, 2, 3))
    expected = head(features, (48, 80))
    assert expected.shape == (2, 4, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(features, (48, 80)).float(), expected, atol=0.1, rtol=0.1)
    nhwc = tuple(x.to(memory_format=torch.channels_last) for x in features)
    torch.testing.assert_close(head(nhwc, (48, 80)), expected)
    assert head.to("meta")(tuple(x.to("meta") for x in features), (48, 80)).shape == (2, 4, 3, 5)


def test_whole_head_in_bfloat16() -> None:
    head = build("linear", levels=(Level(14, 8),), classes=4).bfloat16()
    raw = head((torch.randn(1, 8, 5, 7).bfloat16(),), (70, 98))
    assert raw.dtype == torch.bfloat16
    assert head.decode(raw, (70, 98)).shape == (1, 70, 98)


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="liner"):
        build("liner", levels=(Level(4, 8),), classes=2)
