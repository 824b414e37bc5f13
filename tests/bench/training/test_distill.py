"""A teacher beside the truth: hard labels for the second head of distilled_linear, distributions for any other."""

import numpy as np
import pytest
import torch

import bench
from backbones.contract import Unsupported
from bench.errors import UserError
from bench.plan import recipe as recipes
from bench.plan.recipe import Recipe
from bench.training import distill
from bench.training.distill import TeacherModel
from bench.training.train import train
from tests.bench.training.data import SIZE, Halves

CPU = torch.device("cpu")


def recipe(**changes):
    return Recipe(**{"steps": 30, "batch": 4, "lr": 3e-3, "flip": False, **changes})


def model(head="linear", backbone="deit_pico", size=SIZE):
    torch.manual_seed(0)
    return bench.build(backbone, head, size=size, classes=2)


def fit(net, plan, teacher=None):
    told = {"size": SIZE, "dtype": torch.float32, "device": CPU, "seed": 0, "report": lambda *_: None}
    return train(net, Halves(), plan, **told, teacher=teacher).losses


def mirrored(image):
    """A teacher that says the opposite of the truth, without a doubt."""
    bright = image.mean(1) > 0.5
    return torch.stack([bright, ~bright], 1).float() * 20


@pytest.mark.parametrize("head", ["linear", "distilled_linear"])
def test_a_student_believes_its_teacher_as_far_as_it_is_told(head):
    """With the whole loss the teacher's, a student learns what it says, however wrong."""
    right = {}
    for share in (0.0, 1.0):
        net = model(head)
        fit(net, recipe(teacher_share=share), mirrored)
        net.eval()
        image = torch.from_numpy(Halves().sample(0, SIZE).image).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            raw = net(image)
            if head == "distilled_linear":  # the part that this share has taught
                tokens = net.backbone(image)[-1]
                raw = net.head.truth(tokens) if share == 0 else raw
            right[share] = float((net.head.decode(raw, SIZE)[0].numpy() == Halves().truth(0).mask).mean())
    assert right[0.0] > 0.7
    if head == "linear":
        assert right[1.0] < 0.3


def test_both_heads_are_heard_in_a_prediction():
    net = model("distilled_linear").eval()
    with torch.no_grad():
        for part, bias in ((net.head.truth[1], [3.0, 0.0]), (net.head.taught[1], [0.0, 5.0])):
            part.weight.zero_()
            part.bias.copy_(torch.tensor(bias))
        found = net(torch.rand(1, 3, *SIZE)).softmax(1)[0, :, 0, 0]
    wanted = (torch.tensor([3.0, 0.0]).softmax(0) + torch.tensor([0.0, 5.0]).softmax(0)) / 2
    torch.testing.assert_close(found, wanted)


def test_the_second_head_sees_the_distillation_token_and_the_first_does_not():
    net = model("distilled_linear").train()
    image = torch.rand(2, 3, *SIZE)
    for part, reached in (("truth", False), ("taught", True)):
        net.zero_grad()
        raw = dict(zip(("truth", "taught"), net(image), strict=True))[part]
        norm = net.backbone.transformer.norm
        seen = []
        handle = norm.register_full_backward_hook(lambda module, into, out, seen=seen: seen.append(out[0]))
        raw = dict(zip(("truth", "taught"), net(image), strict=True))[part]
        raw.square().sum().backward()
        handle.remove()
        assert bool(seen[0][:, 1].abs().sum() > 0) == reached, part


def test_soft_distillation_is_nothing_where_both_agree_and_grows_with_the_temperatures_square():
    net = model("linear")
    raw = torch.randn(2, 2, 8, 12)
    target = torch.zeros(2, *SIZE, dtype=torch.long)
    assert float(net.distil(raw, target, raw, share=1.0, temperature=2.0)) == pytest.approx(0, abs=1e-6)
    other = torch.randn(2, 2, 8, 12)
    divergence = torch.nn.functional.kl_div(
        (raw / 2).log_softmax(1), (other / 2).log_softmax(1), log_target=True, reduction="sum"
    ) / (2 * 8 * 12)
    found = net.distil(raw, target, other, share=1.0, temperature=2.0)
    assert float(found) == pytest.approx(4 * float(divergence), rel=1e-4)
    half = net.distil(raw, target, other, share=0.5, temperature=2.0)
    assert float(half) == pytest.approx((float(found) + float(net.loss(raw, target))) / 2, rel=1e-4)


def test_a_teacher_answers_at_its_own_size_and_stays_as_it_is():
    teacher = TeacherModel(model(size=(48, 48)), CPU)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    scores = teacher(torch.rand(2, 3, *SIZE))
    assert scores.shape == (2, 2, SIZE[0] // 2, SIZE[1] // 2)
    assert not scores.requires_grad
    fit(model(), recipe(steps=2), teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())


def test_what_cannot_be_taught_is_refused():
    with pytest.raises(Unsupported, match="of segmentation"):
        distill.check("detection", ["a"], ["a"])
    with pytest.raises(Unsupported, match="the teacher tells a, b apart and the student a, c"):
        distill.check("segmentation", ["a", "c"], ["a", "b"])
    net = model("eomt_pico", "vit_pico")
    with pytest.raises(Unsupported, match="no logits for a teacher"):
        fit(net, recipe(steps=1), mirrored)
    with pytest.raises(UserError, match="resolution"):
        recipes.check("distill+teacher={backbone='a', head='b', resolution='x', recipe='c'}")


def test_the_recipe_of_the_house_names_its_teacher():
    plan = recipes.load("distill", "segmentation")
    assert plan.teacher is not None
    assert "taught by timm:vit_small_patch14_dinov2 linear_bn 168x224" in plan.in_words()
    alone = plan.model_copy(update={"teacher_share": 0.0})
    assert "taught" not in alone.in_words(), "who has no say teaches nothing"
    assert np.isclose(plan.teacher_share, 0.5)
