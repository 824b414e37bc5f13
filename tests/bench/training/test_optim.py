"""Groups, frozen parts, averages and gathered gradients of a recipe's optimiser."""

import copy

import numpy as np
import pytest
import torch

import bench
from bench.plan.recipe import Recipe
from bench.training.loader import chosen
from bench.training.optim import Stepper, decays, groups, in_training_mode
from bench.training.train import train
from tests.bench.training.data import SIZE, Halves

CPU = torch.device("cpu")


def recipe(**changes):
    return Recipe(**{"steps": 6, "batch": 4, "lr": 1e-3, "flip": False, **changes})


def model(backbone="vit_pico", head="linear"):
    torch.manual_seed(0)
    return bench.build(backbone, head, size=SIZE, classes=2)


def fit(net, plan, seed=0):
    told = {"size": SIZE, "dtype": torch.float32, "device": CPU, "seed": seed, "report": lambda *_: None}
    return train(net, Halves(), plan, **told).losses


def rates(net, plan):
    """Name of a parameter -> its learning rate and weight decay."""
    by_identity = {
        id(one): (group["lr"], group["weight_decay"]) for group in groups(net, plan) for one in group["params"]
    }
    return {name: by_identity[id(one)] for name, one in net.named_parameters() if id(one) in by_identity}


def test_rates_fall_from_the_head_to_the_image():
    plan = recipe(lr=1e-2, head_lr=10, backbone_lr=0.5, layer_decay=0.5)
    found = rates(model(), plan)
    assert found["head.classifiers.0.weight"][0] == pytest.approx(0.1)
    last = 4
    for name, depth in (("patch_embed.proj.weight", 0), ("blocks.0.attn.qkv.weight", 1), ("blocks.3.attn.qkv.bias", 4)):
        assert found[f"backbone.transformer.{name}"][0] == pytest.approx(1e-2 * 0.5 * 0.5 ** (last - depth))
    assert found["backbone.transformer.norm.weight"][0] == pytest.approx(1e-2 * 0.5)


def test_without_factors_there_are_two_groups_as_there_were():
    found = groups(model(), recipe())
    assert [group["weight_decay"] for group in found] == [0.05, 0.0]
    assert {group["lr"] for group in found} == {1e-3}


@pytest.mark.parametrize(
    ("backbone", "plain"),
    [
        ("torchvision:vit_b_16", {"class_token", "pos_embedding"}),
        ("timm:swinv2_tiny_window8_256", {"logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight"}),
        ("torchvision:convnext_tiny", {"layer_scale"}),
        ("timm:vit_small_patch14_reg4_dinov2", {"reg_token", "cls_token", "pos_embed"}),
    ],
)
def test_tokens_positions_and_scales_of_other_libraries_do_not_decay(backbone, plain):
    size = (70, 70) if "patch14" in backbone else (256, 256) if "256" in backbone else (64, 64)
    with torch.device("meta"):
        net = bench.build(backbone, "linear", size=size, classes=2)
    named = {name: one for name, one in net.named_parameters() if any(name.endswith(end) for end in plain)}
    assert {end for end in plain for name in named if name.endswith(end)} == plain
    assert not any(decays(name, one) for name, one in named.items())
    assert any(decays(name, one) for name, one in net.named_parameters())


def test_a_frozen_backbone_does_not_move_and_its_head_does():
    net = model("hybrid_pico")
    before = copy.deepcopy(net.state_dict())
    losses = fit(net, recipe(freeze=True))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved), "statistics of its batch norms stay, too"
    assert losses[-1] < losses[0]


def test_frozen_norms_keep_their_statistics_and_the_others_learn():
    net = model("hybrid_pico")
    before = copy.deepcopy(net.state_dict())
    fit(net, recipe(freeze_norm=True))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("running_" in name for name in moved if name.startswith("backbone."))
    assert "backbone.stem.0.conv.weight" in moved
    free = model("hybrid_pico")
    fit(free, recipe())
    assert any(not torch.equal(v, before[k]) for k, v in free.state_dict().items() if "running_mean" in k)


def test_gathered_gradients_are_those_of_the_larger_batch():
    """A head and loss that average over pixels: two batches of 2 are one of 4."""
    whole, parts = model(), model()
    same = {"lr": 1e-2, "steps": 3, "class_weight_power": 0.0}
    one, two = fit(whole, recipe(batch=4, **same)), fit(parts, recipe(batch=2, grad_accumulation=2, **same))
    assert len(two) == 3
    assert two == pytest.approx(one, rel=1e-4)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=2e-4)


def test_the_average_is_what_is_left_in_the_model():
    plan = recipe(ema=0.5, lr=1e-2)
    net = model()
    in_training_mode(net, plan)
    stepper = Stepper(net, plan, dtype=torch.float32, device=CPU)
    image, target = torch.rand(2, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.long)
    name = "head.classifiers.0.weight"
    expected = None
    for _ in range(3):
        stepper.update(stepper.loss(image, target))
        now = net.state_dict()[name].clone()
        expected = now if expected is None else 0.5 * expected + 0.5 * now
    assert not torch.allclose(net.state_dict()[name], expected)
    stepper.finish()
    torch.testing.assert_close(net.state_dict()[name], expected)


def test_state_goes_on_as_if_nothing_had_happened():
    plan = recipe(ema=0.9, lr=1e-2)
    image, target = torch.rand(2, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.long)

    def step(stepper):
        loss = stepper.loss(image, target)
        stepper.update(loss)
        return loss.item()

    net = model()
    stepper = Stepper(net, plan, dtype=torch.float32, device=CPU)
    for _ in range(2):
        step(stepper)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(stepper.state_dict())
    wanted = [step(stepper) for _ in range(3)]
    other = model()
    other.load_state_dict(weights)
    resumed = Stepper(other, plan, dtype=torch.float32, device=CPU)
    resumed.load_state_dict(state)
    assert [step(resumed) for _ in range(3)] == wanted
    stepper.finish()
    resumed.finish()
    for left, right in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_shares_of_the_images_are_nested_and_of_the_seed():
    tenth, half = (set(chosen(40, recipe(train_share=share), 1).tolist()) for share in (0.1, 0.5))
    assert (len(tenth), len(half)) == (4, 20)
    assert tenth < half
    assert set(chosen(40, recipe(train_share=0.5), 2).tolist()) != half
    assert np.array_equal(chosen(40, recipe(), 1), np.arange(40))
    assert len(chosen(3, recipe(train_share=0.01), 0)) == 1, "never none"
