"""Hue, blur, erasing and copy-paste: drawn by seed and place alone, and true to what they say."""

import numpy as np
import pytest
import torch

from bench.data.contract import IGNORE
from bench.plan.recipe import Recipe
from bench.training.loader import BatchMaker, finished
from bench.training.strong import Strong, paste, recolour, strong
from bench.training.views import Objects
from tests.bench.training.data import SIZE, Halves, Pair

MEAN = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)


def recipe(**changes):
    return Recipe(**{"steps": 4, "batch": 4, "lr": 1e-3, "flip": False, **changes})


def test_one_option_moves_no_draw_of_another_nor_of_zoom_and_flip():
    alone = [strong(recipe(erase=1.0), SIZE, 0, number).erased for number in range(20)]
    assert alone == [strong(recipe(erase=1.0, hue=0.2, blur=1.0), SIZE, 0, number).erased for number in range(20)]
    assert alone != [strong(recipe(erase=1.0), SIZE, 1, number).erased for number in range(20)]
    plain = BatchMaker(Halves(), recipe(scale=(0.5, 2.0)), SIZE, 0)(0)
    wild = BatchMaker(Halves(), recipe(scale=(0.5, 2.0), hue=0.1, blur=1.0), SIZE, 0)(0)
    assert torch.equal(plain.image, wild.image), "colours come with the whole batch, on the device"
    assert torch.equal(plain.mask, wild.mask)


def test_probabilities_are_kept_and_rectangles_lie_inside():
    found = [strong(recipe(erase=0.25, blur=0.5), SIZE, 3, number) for number in range(400)]
    assert np.mean([one.erased is not None for one in found]) == pytest.approx(0.25, abs=0.07)
    assert np.mean([one.sigma > 0 for one in found]) == pytest.approx(0.5, abs=0.08)
    for one in found:
        if one.erased is not None:
            top, bottom, left, right = one.erased
            assert 0 <= top < bottom <= SIZE[0]
            assert 0 <= left < right <= SIZE[1]
            assert 0.01 < (bottom - top) * (right - left) / (SIZE[0] * SIZE[1]) < 0.25


def test_what_is_erased_is_the_mean_and_is_not_learnt():
    batch = BatchMaker(Halves(), recipe(erase=1.0), SIZE, 0)(0)
    image, target = finished(batch, MEAN)
    for row, dice in enumerate(batch.strong):
        top, bottom, left, right = dice.erased
        assert (target[row, top:bottom, left:right] == IGNORE).all()
        torch.testing.assert_close(image[row, :, top:bottom, left:right], MEAN[0].expand(3, bottom - top, right - left))
        assert (target[row] == IGNORE).sum() == (bottom - top) * (right - left)


def test_hue_turns_red_to_green_and_blur_smooths_an_edge():
    image = torch.zeros(2, 3, 16, 16)
    image[0, 0] = 1
    image[1, :, :, 8:] = 1
    recolour(image, [Strong(1 / 3, 0.0, None, None), Strong(0.0, 1.5, None, None)])
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    row = image[1, 0, 8]
    assert (row.diff() >= -1e-6).all()
    assert ((row > 0.1) & (row < 0.9)).sum() >= 3
    assert row[0] == pytest.approx(0, abs=1e-4)


def objects(*rectangles, ignore=None):
    masks = np.zeros((len(rectangles), *SIZE), bool)
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    for mask, (left, top, right, bottom) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = True
    return Objects(boxes, np.arange(len(rectangles)), np.array(ignore or [False] * len(rectangles), np.bool_), masks)


def seed_that_takes(count):
    return next(seed for seed in range(99) if (np.random.default_rng(seed).random(count) < 0.5).all())


def test_what_a_pasted_object_hides_is_gone_and_boxes_follow():
    image, donor = np.zeros((3, *SIZE), np.uint8), np.full((3, *SIZE), 200, np.uint8)
    mine, given = objects((0, 0, 10, 10), (20, 20, 24, 24)), objects((5, 0, 15, 12), (18, 18, 30, 30))
    after = paste(image, mine, (0, SIZE[0], 0, SIZE[1]), donor, given, seed_that_takes(2))
    assert after.boxes.tolist() == [[0, 0, 5, 10], [5, 0, 15, 12], [18, 18, 30, 30]]
    assert after.labels.tolist() == [0, 0, 1]
    assert (image[:, given.masks.any(axis=0)] == 200).all()
    assert image.sum() == 200 * 3 * given.masks.sum()
    assert not (after.masks[0] & after.masks[1]).any()


def test_nothing_is_pasted_outside_of_the_picture_nor_what_is_ignored():
    image, donor = np.zeros((3, *SIZE), np.uint8), np.full((3, *SIZE), 200, np.uint8)
    given = objects((0, 0, 20, 20), (30, 0, 40, 10), ignore=[False, True])
    after = paste(image, objects(), (0, 10, 0, SIZE[1]), donor, given, seed_that_takes(2))
    assert after.boxes.tolist() == [[0, 0, 20, 10]]
    assert image[:, 10:].sum() == 0
    assert image[:, :, 30:].sum() == 0


def test_batches_paste_from_what_was_there_before_and_only_with_masks():
    moving = recipe(scale=(0.5, 1.0), meet="letterbox")
    plain = BatchMaker(Pair(), moving, SIZE, 0)(0)
    pasted = BatchMaker(Pair(), moving.model_copy(update={"copy_paste": 1.0}), SIZE, 0)
    gained = [len(one.labels) - len(other.labels) for one, other in zip(pasted(0).boxes, plain.boxes, strict=True)]
    assert max(gained) == 1, "of two objects, one of which is ignored"
    for one in pasted(0).boxes:
        assert one.masks.shape == (len(one.labels), *SIZE)
        assert len(one.ignore) == len(one.xyxy) == len(one.labels)
    without = BatchMaker(Pair(masks=False), moving.model_copy(update={"copy_paste": 1.0}), SIZE, 0)(0)
    assert torch.equal(without.image, plain.image)
