"""Segmenter: the published size and cost, what its logits mean, and few classes, where its norm gives up."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bench
from backbones.contract import Features, Level
from heads.pyramid import map_size
from heads.segmenter import MANY, Segmenter, build

DEPTHS = (Level(16, 32),) * 4
STRIDES = (Level(4, 8), Level(8, 16), Level(16, 32), Level(32, 64))


def maps(levels: tuple[Level, ...], size: tuple[int, int], batch: int = 2) -> Features:
    """Random feature maps of an image of ``size``."""
    return tuple(torch.randn(batch, level.channels, *map_size(size, level.stride)) for level in levels)


def test_published_parameters_and_macs_with_vit_small() -> None:
    """Segmenter ViT-S/16 with mask head at 512 px and 150 classes: 26.4 M with the encoder's 1000 classes, 38.6 GMACs.

    384 x 1000 + 1000 parameters are the classifier that the published encoder carries without using it.
    """
    with torch.device("meta"):
        model = bench.build("vit_small", "segmenter", size=(512, 512), classes=150).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = model(torch.empty(1, 3, 512, 512))
    assert logits.shape == (1, 150, 32, 32)
    parameters = sum(parameter.numel() for parameter in model.parameters()) + 385_000
    assert math.isclose(parameters, 26.4e6, rel_tol=0.005)
    assert math.isclose(counter.get_total_flops() / 2, 38.6e9, rel_tol=0.01)


def test_parameters_by_hand() -> None:
    with torch.device("meta"):
        head = build("segmenter", levels=(Level(16, 384),) * 4, classes=150)
    d, k = 384, 150
    block = 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d  # attention, MLP, two norms
    assert sum(p.numel() for p in head.parameters()) == d * d + d + k * d + 2 * block + 2 * d + 2 * d * d + 2 * k


@pytest.mark.parametrize(
    ("channels", "width", "heads"), [(384, 384, 6), (768, 768, 12), (100, 128, 2), (20, 64, 1), (320, 320, 5)]
)
def test_width_is_that_of_the_encoder_in_heads_of_64(channels: int, width: int, heads: int) -> None:
    with torch.device("meta"):
        head = build("segmenter", levels=(Level(16, channels),), classes=3)
    assert head.class_tokens.shape == (1, 3, width)
    assert {m.num_heads for m in head.modules() if hasattr(m, "num_heads")} == {heads}


def test_width_that_heads_do_not_make_up() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Segmenter(DEPTHS, 3, width=100, layers=1, head_width=64, dropout=0.0)


@pytest.mark.parametrize("levels", [DEPTHS, STRIDES, (Level(7, 8), Level(14, 8)), (Level(14, 8),), (Level(4, 8),)])
def test_logits_lie_on_the_level_nearest_to_stride_16(levels: tuple[Level, ...]) -> None:
    size = (56, 84)
    stride = min((level.stride for level in levels), key=lambda stride: abs(math.log2(stride / 16)))
    head = build("segmenter_pico", levels=levels, classes=5)
    assert head(maps(levels, size), size).shape == (2, 5, *map_size(size, stride))


def test_over_one_stride_only_the_last_map_is_read() -> None:
    head = build("segmenter_pico", levels=DEPTHS, classes=5).eval()
    features = maps(DEPTHS, (48, 80))
    others = tuple(torch.full_like(x, torch.nan) for x in features[:-1])
    torch.testing.assert_close(head((*others, features[-1]), (48, 80)), head(features, (48, 80)))
    assert not [m for m in head.map.modules() if list(m.parameters())], "published: nothing before the projection"


def test_over_a_pyramid_the_coarser_maps_have_a_part() -> None:
    head = build("segmenter_pico", levels=STRIDES, classes=5).eval()
    features = tuple(x.requires_grad_() for x in maps(STRIDES, (64, 96)))
    head(features, (64, 96)).square().sum().backward()
    assert [x.grad is not None and x.grad.abs().sum().item() > 0 for x in features] == [False, False, True, True]


def test_a_cell_s_logits_have_mean_0_and_deviation_1_before_training() -> None:
    """LayerNorm over the classes, at weights 1 and biases 0."""
    head = build("segmenter_pico", levels=DEPTHS, classes=MANY).eval()
    logits = head(maps(DEPTHS, (48, 80)), (48, 80))
    torch.testing.assert_close(logits.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    assert (logits.std(1, correction=0) > 0.9).all()


def test_cells_and_classes_keep_their_places() -> None:
    """With no layers a cell's logits depend on that cell alone, and a class's token on that class alone."""
    head = Segmenter((Level(16, 8),), 2, width=16, layers=0, head_width=8, dropout=0.0)
    (x,) = maps((Level(16, 8),), (48, 80), batch=1)
    before = head((x,), (48, 80))
    x[0, :, 1, 3] += 1
    moved = (head((x,), (48, 80)) - before).abs().sum(1)[0]
    assert moved[1, 3] > 0
    assert moved.count_nonzero() == 1
    with torch.no_grad():
        before = head((x,), (48, 80))
        head.class_tokens[0, 1] += torch.randn(16)
    changed = (head((x,), (48, 80)) - before).abs().amax((0, 2, 3))
    assert changed[0] == 0
    assert changed[1] > 0


def test_one_class_is_defined_and_leaves_nothing_to_learn() -> None:
    head = build("segmenter_pico", levels=DEPTHS, classes=1)
    logits = head(maps(DEPTHS, (32, 48)), (32, 48))
    loss = head.loss(logits, torch.zeros(2, 32, 48, dtype=torch.int64))
    loss.backward()
    assert logits.isfinite().all()
    assert logits.std() > 0, "another loss could learn from them"
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    assert not head.decode(logits, (32, 48)).any()


def overfit(head: Segmenter, classes: int, steps: int) -> tuple[list[float], float]:
    """Losses and accuracy at the end, on four images of random features with a random class for each cell."""
    x = torch.randn(4, 32, 5, 5)
    target = torch.randint(classes, (4, 5, 5)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(head((x,), (80, 80)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (head.decode(head((x,), (80, 80)), (80, 80)) == target).float().mean().item()


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_learns_a_batch_by_heart(classes: int) -> None:
    torch.manual_seed(0)
    losses, accuracy = overfit(build("segmenter_pico", levels=(Level(16, 32),), classes=classes), classes, 60)
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy > 0.8


def test_two_classes_would_not_learn_under_the_published_norm() -> None:
    """Why `ClassScale` is there."""
    torch.manual_seed(0)
    head = build("segmenter_pico", levels=(Level(16, 32),), classes=2)
    head.mask_norm = nn.LayerNorm(2)
    assert overfit(head, 2, 60)[1] < 0.75, "chance is 0.5, and with `ClassScale` it is 0.8 and more"


@pytest.mark.parametrize("levels", [DEPTHS, STRIDES])
def test_other_precisions_layouts_and_the_meta_device(levels: tuple[Level, ...]) -> None:
    torch.manual_seed(0)
    size = (48, 80)
    head = build("segmenter_pico", levels=levels, classes=4).eval()
    features = maps(levels, size)
    expected = head(features, size)
    nhwc = tuple(x.to(memory_format=torch.channels_last) for x in features)
    torch.testing.assert_close(head(nhwc, size), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(features, size)
    assert (mixed.float() - expected).norm().item() < 0.2 * expected.norm().item()
    half = head.bfloat16()(tuple(x.bfloat16() for x in features), size)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).norm().item() < 0.2 * expected.norm().item()
    assert head.float().to("meta")(tuple(x.to("meta") for x in features), size).shape == expected.shape


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="segmentor"):
        build("segmentor", levels=DEPTHS, classes=2)
