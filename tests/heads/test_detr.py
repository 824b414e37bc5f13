"""DETR: its parameters as published, what its loss counts, and boxes out of answers."""

import math

import pytest
import torch
from torch import Tensor, nn

from backbones.contract import Features, Level
from heads.contract import Boxes
from heads.detr import DETR, Answer, DETROutput, build, centres, gaussian, sines

LEVELS = (Level(8, 16), Level(16, 24))
SIZE = (64, 96)
CLASSES = 3


def maps(size: tuple[int, int] = SIZE, batch: int = 1, levels: tuple[Level, ...] = LEVELS) -> Features:
    """Random feature maps of an image of ``size``."""
    return tuple(torch.randn(batch, one.channels, size[0] // one.stride, size[1] // one.stride) for one in levels)


def small(*, two_stage: bool, classes: int = CLASSES, dropout: float = 0.0) -> DETR:
    """Either kind of DETR, tiny."""
    return DETR(
        LEVELS,
        classes,
        channels=32,
        queries=6,
        encoders=1,
        decoders=2,
        heads=4,
        hidden=48,
        dropout=dropout,
        two_stage=two_stage,
    )


def truth(*boxes: tuple[float, float, float, float], labels: list[int], ignore: list[bool] | None = None) -> Boxes:
    """Objects of one image."""
    return Boxes(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        ignore=None if ignore is None else torch.tensor(ignore, dtype=torch.bool),
    )


def said(boxes: list[tuple[float, float, float, float]], logits: Tensor) -> DETROutput:
    """Raw output of one layer and one image of 100 x 200 px; boxes xyxy in pixels."""
    x1, y1, x2, y2 = torch.tensor(boxes).unbind(1)
    relative = torch.stack([(x1 + x2) / 400, (y1 + y2) / 200, (x2 - x1) / 200, (y2 - y1) / 100], dim=1)
    answer = Answer(logits[None].requires_grad_(), relative[None].requires_grad_())
    return {"size": (100, 200), "answers": [answer], "proposals": None}


def sure(labels: list[int], *, two_stage: bool) -> Tensor:
    """Logits of queries that have no doubt; CLASSES: nothing there."""
    logits = torch.full((len(labels), CLASSES + 1), -20.0)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = 20.0
    return logits[:, :-1].clone() if two_stage else logits


def test_parameters_are_those_of_detr_r50() -> None:
    with torch.device("meta"):
        head = build("detr", levels=(Level(32, 2048),), classes=91)
    # The published log counts 41,302,368 trained ones, with 23,232,512 of a ResNet-50 whose norms and first two stages
    # are frozen.
    assert sum(parameter.numel() for parameter in head.parameters()) == 41_302_368 - 23_232_512


def test_it_reads_the_last_level_alone() -> None:
    torch.manual_seed(0)
    head = small(two_stage=False).eval()
    fine, coarse = maps()
    one, other, third = (head(x, SIZE)["answers"][-1].boxes for x in [(fine, coarse), (-fine, coarse), (fine, -coarse)])
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize("two_stage", [False, True])
def test_every_layer_answers_in_training_and_the_last_in_inference(two_stage: bool) -> None:
    head = small(two_stage=two_stage)
    raw = head(maps(batch=2), SIZE)
    counts = [answer.boxes.shape[1] for answer in raw["answers"]]
    assert counts == ([24, 6, 6] if two_stage else [6, 6])
    assert raw["answers"][0].logits.shape[2] == (CLASSES if two_stage else CLASSES + 1)
    head.eval()
    raw = head(maps(batch=2), SIZE)
    (last,) = raw["answers"]
    assert last.boxes.shape == (2, 6, 4)
    if two_stage:
        assert raw["proposals"] is not None
        assert raw["proposals"].boxes.shape == (2, 24, 4)
    else:
        assert raw["proposals"] is None


def test_fewer_cells_than_queries_are_enough() -> None:
    head = small(two_stage=True)
    raw = head(maps((16, 32)), (16, 32))
    assert [answer.boxes.shape[1] for answer in raw["answers"]] == [2, 2, 2]


@pytest.mark.parametrize("two_stage", [False, True])
def test_a_perfect_answer_costs_nothing(two_stage: bool) -> None:
    boxes = [(10.0, 20.0, 60.0, 80.0), (100.0, 10.0, 180.0, 40.0), (0.0, 0.0, 20.0, 20.0)]
    raw = said(boxes, sure([2, 0, CLASSES], two_stage=two_stage))
    target = truth(*boxes[:2], labels=[2, 0])
    head = small(two_stage=two_stage)
    assert head.loss(raw, [target]).item() == pytest.approx(0, abs=1e-4)
    swapped = truth(*boxes[:2], labels=[0, 2])
    assert head.loss(raw, [swapped]).item() > 1


@pytest.mark.parametrize("two_stage", [False, True])
def test_the_order_of_queries_and_of_objects_does_not_matter(two_stage: bool) -> None:
    torch.manual_seed(0)
    head = small(two_stage=two_stage)
    logits, boxes = torch.randn(1, 6, CLASSES + (not two_stage)), torch.rand(1, 6, 4) * 0.5 + 0.2
    target = truth((0, 0, 40, 30), (50, 20, 90, 60), (5, 30, 30, 60), labels=[1, 0, 2])
    order, other = torch.randperm(6), torch.tensor([2, 0, 1])
    loss = head.loss({"size": SIZE, "answers": [Answer(logits, boxes)]}, [target])
    moved = head.loss(
        {"size": SIZE, "answers": [Answer(logits[:, order], boxes[:, order])]},
        [Boxes(target.xyxy[other], target.labels[other])],
    )
    torch.testing.assert_close(loss, moved)


def test_loss_by_hand() -> None:
    # One of two queries is off by a tenth of the width; it is sure of the class to one half, the other says nothing.
    logits = torch.tensor([[0.0, -40.0, -40.0, 0.0], [-40.0, -40.0, -40.0, 40.0]])
    raw = said([(40.0, 20.0, 80.0, 60.0), (150.0, 70.0, 170.0, 90.0)], logits)
    loss = small(two_stage=False).loss(raw, [truth((60, 20, 100, 60), labels=[0])])
    l1 = 20 / 200
    giou = 800 / 2400
    assert loss.item() == pytest.approx(math.log(2) / 1.1 + 5 * l1 + 2 * (1 - giou), rel=1e-4)


def test_more_objects_than_queries() -> None:
    raw = said([(40.0, 20.0, 80.0, 60.0)], sure([0], two_stage=False))
    target = truth((0, 0, 10, 10), (40, 20, 80, 60), (90, 0, 99, 9), labels=[1, 0, 2])
    assert small(two_stage=False).loss(raw, [target]).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("two_stage", [False, True])
def test_ignored_boxes_are_not_matched_and_excuse_the_queries_in_them(two_stage: bool) -> None:
    head = small(two_stage=two_stage)
    inside, beside = (20.0, 20.0, 60.0, 60.0), (50.0, 20.0, 110.0, 60.0)  # 40 and 10 of 60 px in the ignored box

    def gradient(target: Boxes) -> tuple[float, Tensor]:
        logits = torch.zeros(2, CLASSES + (not two_stage))
        raw = said([inside, beside], logits)
        loss = head.loss(raw, [target])
        loss.backward()
        grad, boxes = (part.grad for part in raw["answers"][0])
        assert grad is not None
        assert boxes is None or boxes.abs().max().item() == 0
        return loss.item(), grad[0]

    nothing, pushed = gradient(truth(labels=[]))
    ignored, quiet = gradient(truth((0, 0, 60, 100), labels=[1], ignore=[True]))
    assert pushed.abs().amax(dim=1).min().item() > 0
    assert quiet[0].abs().max().item() == 0
    assert quiet[1].abs().max().item() > 0
    # The focal loss is a sum, the cross-entropy a mean over those that count.
    assert ignored == pytest.approx(nothing / 2 if two_stage else nothing)


def test_an_object_in_an_ignored_box_is_learnt() -> None:
    raw = said([(20.0, 20.0, 60.0, 60.0)], torch.zeros(1, CLASSES + 1))
    target = truth((0, 0, 100, 100), (20, 20, 60, 60), labels=[1, 2], ignore=[True, False])
    small(two_stage=False).loss(raw, [target]).backward()
    gradient = raw["answers"][0].logits.grad
    assert gradient is not None
    assert gradient[0, 0, 2].item() < 0


@pytest.mark.parametrize("two_stage", [False, True])
@pytest.mark.parametrize(
    "boxes",
    [
        truth(labels=[]),
        truth((10, 10, 10, 10), labels=[0]),
        truth((10, 10, 10, 50), (0, 0, 96, 64), labels=[2, 1]),
        truth((10, 10, 40, 40), labels=[1], ignore=[True]),
        truth((0, 0, 0.01, 0.01), labels=[0]),
        truth((0, 0, 96, 64), labels=[0], ignore=[True]),
    ],
)
def test_loss_and_gradient_are_finite_for_awkward_truth(boxes: Boxes, two_stage: bool) -> None:
    torch.manual_seed(0)
    head = small(two_stage=two_stage, dropout=0.1)
    loss = head.loss(head(maps(batch=2), SIZE), [boxes, truth(labels=[])])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("two_stage", [False, True])
def test_segmentation_is_no_target(two_stage: bool) -> None:
    head = small(two_stage=two_stage)
    with pytest.raises(TypeError, match="boxes"):
        head.loss(head(maps(), SIZE), torch.zeros(1, *SIZE, dtype=torch.int64))


def test_decode_takes_the_best_class_of_each_query() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0, 3.0], [4.0, 0.0, 0.0, 0.0], [-9.0, -9.0, -9.0, 9.0]])
    raw = said([(-10.0, 20.0, 60.0, 80.0), (100.0, 10.0, 180.0, 40.0), (0.0, 0.0, 20.0, 20.0)], logits)
    (found,) = small(two_stage=False).decode(raw, (50, 400))
    assert found.labels[:2].tolist() == [0, 1]
    assert found.scores is not None
    torch.testing.assert_close(found.scores[:2], torch.stack([logits[1].softmax(0)[0], logits[0].softmax(0)[1]]))
    torch.testing.assert_close(found.xyxy[:2], torch.tensor([[200.0, 5.0, 360.0, 20.0], [0.0, 10.0, 120.0, 40.0]]))
    assert len(found.scores) == 3
    assert found.scores[2].item() < 1e-6


def test_decode_with_two_stages_takes_the_best_pairs() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0], [0.0, -2.0, 1.0]])
    raw = said([(10.0, 20.0, 60.0, 80.0), (100.0, 10.0, 180.0, 40.0)], logits)
    head = small(two_stage=True)
    head.detections = 4
    (found,) = head.decode(raw, (100, 200))
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.xyxy[:, 0].tolist() == pytest.approx([10, 10, 100, 100], rel=1e-5)
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid().tolist())


def test_positions_are_told_apart_and_neighbours_are_alike() -> None:
    where = sines(centres(4, 6, torch.device("cpu")), 16)
    assert where.shape == (24, 32)
    distance = torch.cdist(where, where)
    assert (distance + torch.eye(24)).min().item() > 0.05
    assert distance[0, 1] < distance[0, 2]
    # The first pair of each number is its angle.
    assert where[0, :2].tolist() == pytest.approx([math.sin(math.pi / 6), math.cos(math.pi / 6)])


def test_the_gaussian_lies_on_its_box() -> None:
    cells = centres(8, 8, torch.device("cpu"))
    box = torch.tensor([[[0.6875, 0.3125, 0.5, 1.0]]])  # centre of the cell in row 2, column 5
    bias = gaussian(box, cells).view(8, 8)
    assert bias.argmax().item() == 2 * 8 + 5
    assert bias[2, 5].item() == pytest.approx(0)
    assert bias[2, 6].item() == pytest.approx(-0.5)  # a cell is an eighth of the width, a quarter of the box's
    assert bias[4, 5].item() == pytest.approx(-0.5)  # the box is twice as high
    tiny = gaussian(torch.tensor([[[0.5, 0.5, 1e-4, 1e-4]]]), cells)
    assert tiny.amax().item() == pytest.approx(-0.25)


def test_dropout_is_of_training_alone() -> None:
    torch.manual_seed(0)
    head = small(two_stage=False, dropout=0.5)
    features = maps()
    one, other = (head(features, SIZE)["answers"][-1].boxes for _ in range(2))
    assert not torch.equal(one, other)
    head.eval()
    one, other = (head(features, SIZE)["answers"][-1].boxes for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("two_stage", [False, True])
def test_overfits_two_boxes(two_stage: bool) -> None:
    torch.manual_seed(0)
    head = small(two_stage=two_stage)
    features = maps()
    boxes = ((20.0, 12.0, 70.0, 50.0), (4.0, 30.0, 24.0, 60.0))
    target = [truth(*boxes, labels=[2, 0])]
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        head.loss(head(features, SIZE), target).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    (found,) = head.eval().decode(head(features, SIZE), SIZE)
    assert found.labels[:2].sort().values.tolist() == [0, 2]
    best = found.xyxy[:2][found.labels[:2].argsort(descending=True)]
    assert (best - torch.tensor(boxes)).abs().max().item() < 5
