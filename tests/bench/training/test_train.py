import numpy as np
import pytest
import torch

import bench
from bench.data.contract import Truth
from bench.plan.measure import Invalid
from bench.plan.recipe import Recipe
from bench.training.optim import Stepper, decays
from bench.training.train import Waiting, class_weights, train
from tests.bench.training.data import SIZE, Halves, Nothing

CPU = torch.device("cpu")


def recipe(**changes):
    return Recipe(**{"steps": 12, "batch": 4, "lr": 3e-3, "flip": False, **changes})


def fit(plan, *, seed=0, dtype=torch.float32, head="linear", data=None, workers=0):
    data = data or Halves("detection" if head.startswith("fcos") else "segmentation")
    torch.manual_seed(0)
    model = bench.build("vit_pico", head, size=SIZE, classes=2)
    told = {"size": SIZE, "dtype": dtype, "device": CPU, "seed": seed, "report": lambda *_: None}
    return model, train(model, data, plan, **told, workers=workers).losses


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_learns_what_is_plain_to_see(dtype, pipeline):
    plan = recipe(steps=25, class_weight_power=0.5, loss_stride=2, pipeline=pipeline)
    model, losses = fit(plan, dtype=dtype)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    image = torch.from_numpy(Halves().sample(0, SIZE).image).permute(2, 0, 1)[None].float() / 255
    model.eval()
    with torch.inference_mode():
        right = model.decode(model(image), SIZE)[0].numpy() == Halves().truth(0).mask
    # The grid of 16 px meets the middle at 24 px only up to interpolation.
    assert right.mean() > 0.75


@pytest.mark.parametrize(
    ("head", "losses"),
    [
        ("linear", [0.7479753, 0.2471301, 1.7137874, 0.4584393, 0.3754876]),
        ("fcos_pico", [2.5562973, 1.9476657, 1.4753461, 1.3026154, 1.3082285]),
    ],
)
def test_the_first_pipeline_trains_as_it_did_when_its_records_were_made(head, losses):
    """Losses as they were before there was a second one: any other draw of augmentation or loss changes them.

    Those of fcos_pico are of its training revision 2.
    """
    plan = recipe(
        steps=5,
        scale=(0.5, 1.5),
        flip=True,
        flip_vertical=True,
        jitter=0.2,
        class_weight_power=0.5,
        loss_stride=2,
        pipeline=1,
    )
    assert fit(plan, head=head, seed=3)[1] == pytest.approx(losses, rel=2e-3)


@pytest.mark.parametrize("pipeline", [1, 2])
def test_detection_trains(pipeline):
    _, losses = fit(recipe(steps=10, pipeline=pipeline), head="fcos_pico")
    assert np.mean(losses[-3:]) < losses[0]


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("head", ["linear", "fcos_pico"])
@pytest.mark.parametrize("scale", [None, (0.5, 2.0)])
def test_batches_without_anything_to_learn_train_all_the_same(head, scale, pipeline):
    data = Nothing("detection" if head.startswith("fcos") else "segmentation")
    plan = recipe(steps=3, scale=scale, class_weight_power=0.5, pipeline=pipeline)
    model, losses = fit(plan, head=head, data=data)
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_head_is_told_how_far_the_training_is(monkeypatch):
    told = []
    data = Halves()
    model = bench.build("vit_pico", "linear", size=SIZE, classes=2)
    monkeypatch.setattr(model.head, "set_progress", told.append)
    train(model, data, recipe(steps=4), size=SIZE, dtype=torch.float32, device=CPU, seed=0, report=lambda *_: None)
    assert told == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("pipeline", [1, 2])
def test_a_seed_repeats_bit_by_bit_and_another_does_not(pipeline):
    plan = recipe(steps=4, flip=True, pipeline=pipeline)
    assert fit(plan)[1] == fit(plan)[1]
    assert fit(plan)[1] != fit(plan, seed=1)[1]


def test_a_diverging_loss_is_invalid_and_says_where():
    with pytest.raises(Invalid, match=r"the loss became \S+ at step \d+ of 60"):
        fit(recipe(steps=60, lr=1e18, clip=1e30, warmup=0.0))


@pytest.mark.parametrize("ema", [None, 0.5])
def test_weights_that_the_last_update_broke_are_invalid(monkeypatch, ema):
    """The loss before it is finite, and there is none after it."""
    update = Stepper.update

    def breaking(self, loss):
        moved = update(self, loss)
        with torch.no_grad():
            next(self.model.head.parameters()).view(-1)[0] = float("nan")
        if self._average is not None:
            self._average.update_parameters(self.model)
        return moved

    monkeypatch.setattr(Stepper, "update", breaking)
    with pytest.raises(Invalid, match=r"1 of \d+ tensors .* not finite after the last update .*head"):
        fit(recipe(steps=1, ema=ema))


def test_the_share_that_waited_is_that_of_whoever_takes(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bench.training.train.time.perf_counter", lambda: clock[0])

    def made():
        for seconds in (100.0, 1.0, 2.0):
            clock[0] += seconds
            yield seconds

    feed = Waiting(made())
    assert feed.share() is None
    for _ in feed:
        clock[0] += 3.0
    assert feed.share() == pytest.approx((1 + 2) / (3 + 1 + 3 + 2 + 3)), "nobody can be ahead of the first"


def test_class_weights_are_frequency_to_the_power_with_mean_one():
    weights = class_weights(Halves(), recipe(class_weight_power=0.5), (32, 32))
    assert weights.tolist() == pytest.approx([1, 1])

    class Quarter(Halves):
        def truth(self, index, size=SIZE):
            whole = super().truth(index, size)
            mask = np.zeros(size, np.uint8)
            mask[:, : size[1] // 4] = 1
            return Truth(size, mask, whole.boxes, whole.labels, whole.ignore)

    uneven = class_weights(Quarter(), recipe(class_weight_power=0.5), (32, 32))
    assert float(uneven[1] / uneven[0]) == pytest.approx(3**0.5, rel=1e-5)
    assert float(0.75 * uneven[0] + 0.25 * uneven[1]) == pytest.approx(1, rel=1e-5)


def test_norms_biases_positions_and_tokens_do_not_decay():
    model = bench.build("deit_pico", "linear", size=SIZE, classes=2)
    for name, parameter in model.named_parameters():
        plain = parameter.ndim == 1 or name.rpartition(".")[2] in {"pos_embed", "cls_token", "dist_token"}
        assert decays(name, parameter) != plain, name


def test_a_class_that_counting_did_not_meet_is_not_given_up():
    """Classes 1 and 2 are in the last image alone: spread counting meets them, counting the first does not."""

    class Late(Halves):
        classes = ("dark", "bright", "rare")

        def truth(self, index, size=SIZE):
            whole = super().truth(index, size)
            mask = np.zeros(size, np.uint8)
            if index == self.count - 1:
                mask[:8], mask[8:10] = 1, 2
            return Truth(size, mask, whole.boxes, whole.labels, whole.ignore)

    spread = class_weights(Late(count=3), recipe(class_weight_power=1.0), SIZE)
    assert spread[2] > spread[1] > spread[0] > 0
    first = class_weights(Late(count=3), recipe(class_weight_power=1.0, class_weight_images=1), SIZE)
    assert first.tolist() == [1, 1, 1]
