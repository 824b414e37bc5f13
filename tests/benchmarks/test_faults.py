"""The faults that are put back are those that were mended, and nothing else."""

import pytest
import torch

from bench.training import loader
from tests.bench.training.data import Halves
from tests.bench.training.test_train import CPU, recipe
from tests.bench.training.test_views import apart, second
from tests.benchmarks import faults


def test_labels_move_by_half_a_pixel_and_come_back() -> None:
    def unflipped(data, plan, size):
        # A flip would turn the shift over.
        return second(data, plan.model_copy(update={"flip": False, "flip_vertical": False}), size)

    with faults.half_a_pixel():
        assert apart(unflipped, (90, 120)) == pytest.approx([0.5, 0.5], abs=0.05)
    assert apart(unflipped, (90, 120)) == pytest.approx([0, 0], abs=0.03)


def test_padding_is_black_but_for_jitter_and_becomes_the_mean_again() -> None:
    plan, mean = recipe(steps=4, meet="letterbox", scale=(0.5, 0.9)), torch.full((1, 3, 1, 1), 0.5)

    def hidden() -> torch.Tensor:
        made = loader.batches(Halves(), plan, size=(32, 48), device=CPU, seed=0, mean=mean, workers=0)
        return torch.cat([image.permute(0, 2, 3, 1)[mask == 255] for image, mask in made])

    with faults.black_padding():
        assert (hidden() == 0).all()
    assert (hidden() == 0.5).all()


def test_a_cost_is_of_the_same_seeds() -> None:
    found = {
        (data, way, seed): 50.0 + seed - (way != "mended") * 2
        for data in faults.CELLS
        for way in faults.WAYS
        for seed in range(faults.SEEDS)
    }
    text = faults.report(found)
    assert text.count("+2.00 ± 0.00") == 4
    assert "mIoU 48.0, 49.0, 50.0" in text
    one = faults.report(found, 1)
    assert one.count("| +2.00 |") == 4
    assert "of one seed, so without an interval" in one
    del found["camvid", "black padding", 0]
    assert "| camvid | hybrid_pico linear | black padding | not measured | |" in faults.report(found, 1)
