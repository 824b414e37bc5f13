import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import bench
from backbones.contract import Backbone, Level
from bench.training.predict import frame, predictions
from heads.contract import Boxes, Head, Model
from heads.segmentation import SegmentationHead
from tests.bench.training.data import Blobs
from tests.bench.training.test_train import recipe


class Eye(Backbone):
    """The normalised image is its one map; the padding's colour becomes 0."""

    def __init__(self, size):
        super().__init__(size, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
        self.levels, self.divisor, self.tokens = (Level(1, 3),), 1, size[0] * size[1]

    def features(self, image):
        return (image,)


class Bright(SegmentationHead):
    """Class 1 where the image is bright; ``context`` adds what depends on the whole window."""

    def __init__(self, context=0.0):
        super().__init__(2)
        self.context = context

    def forward(self, features, size):
        light = features[0].mean(1, keepdim=True)
        light = light + self.context * light.mean((2, 3), keepdim=True)
        return torch.cat([-light, light], 1)


class Around(Head):
    """One box around what is bright, with its mask."""

    task, classes = "detection", 1

    def forward(self, features, size):
        return features[0].mean(1, keepdim=True)

    def loss(self, raw, target):
        return raw.sum()

    def decode(self, raw, size):
        return [self.around(one) for one in interpolate(raw, size=size, mode="bilinear")[:, 0] > 0]

    def around(self, mask):
        rows, columns = mask.nonzero().T
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return Boxes(box[None], torch.zeros(1, dtype=torch.long), torch.ones(1), masks=mask[None])


def predicted(plan, *, picture, size, head=None, count=5, **options):
    data = Blobs("detection" if isinstance(head, Around) else "segmentation", picture)
    net = Model(Eye(size), head or Bright()).eval()
    found = []
    for images, truths, prediction in predictions(net, data, plan, size=size, count=count, **options):
        assert len(images) == len(truths) == len(prediction)
        found += zip(images, truths, prediction, strict=True)
    assert len(found) == count
    return found


WAYS = [
    {"meet": "stretch"},
    {"meet": "letterbox"},
    {"meet": "crop"},
    {"meet": "crop", "windows": 0.5},
    {"meet": "crop", "windows": 0.7, "windows_zoom": 1.5},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", [(90, 120), (120, 70), (96, 96)])
@pytest.mark.parametrize("workers", [0, 2])
def test_masks_are_where_the_truth_is_at_its_size(way, picture, workers):
    size = (64, 64)
    for image, truth, mask in predicted(recipe(**way), picture=picture, size=size, workers=workers):
        assert mask.shape == truth.size == picture
        differing = (mask.numpy() != truth.mask).sum()
        rim = 2 * sum(truth.mask.any(axis).sum() for axis in (0, 1))
        assert differing <= rim, "a pixel of the input is larger than one of the truth"
        assert np.abs(np.argwhere(mask.numpy()).mean(0) - np.argwhere(truth.mask).mean(0)).max() < 0.75
        if way["meet"] != "stretch":
            assert image.shape[0] / image.shape[1] == pytest.approx(picture[0] / picture[1], rel=0.02)


@pytest.mark.parametrize("way", WAYS[:3])
@pytest.mark.parametrize("picture", [(90, 120), (121, 71)])
def test_boxes_and_shapes_are_where_the_truth_is(way, picture):
    for _, truth, boxes in predicted(recipe(**way), picture=picture, size=(64, 64), head=Around()):
        assert boxes.masks.shape == (1, *picture)
        assert np.abs(boxes.xyxy.numpy() - truth.boxes).max() < 1.5
        assert (boxes.masks[0].numpy() != truth.masks[0]).mean() < 0.03
        assert np.abs(np.argwhere(boxes.masks[0].numpy()) - np.argwhere(truth.masks[0]).mean(0)).mean(0).max() < 8


def test_what_is_found_in_the_padding_is_left_out():
    class Beside(Around):
        def decode(self, raw, size):
            height, width = size
            edges = torch.tensor([[0, 0, width, height], [0, 0.8 * height, width, height]]).float()
            return [Boxes(edges, torch.zeros(2, dtype=torch.long), torch.tensor([0.9, 0.8])) for _ in raw]

    for _, _, boxes in predicted(recipe(meet="letterbox"), picture=(60, 120), size=(64, 64), head=Beside()):
        assert boxes.xyxy.tolist() == [[0, 0, 120, 60]], "cut off where the picture ends"
        assert boxes.scores.tolist() == pytest.approx([0.9])


def test_scores_are_averaged_where_windows_overlap():
    """A head whose answer depends on all that a window shows, against a loop over windows and pixels."""
    plan, size, picture = recipe(meet="crop", windows=0.5, windows_zoom=2.0), (32, 32), (32, 48)
    data, net = Blobs(size=picture), Model(Eye(size), Bright(context=-1.2)).eval()
    canvas = frame(data, plan, size, 0).image
    assert canvas.shape == (3, 64, 96)
    total, count = np.zeros((64, 96)), np.zeros((64, 96))
    for top in (0, 16, 32):
        for left in (0, 16, 32, 48, 64):
            light = canvas[:, top : top + 32, left : left + 32].mean(0) / 255 - 0.5
            total[top : top + 32, left : left + 32] += light - 1.2 * light.mean()
            count[top : top + 32, left : left + 32] += 1
    wanted = interpolate(torch.from_numpy(total / count)[None, None], size=picture, mode="bilinear")[0, 0] > 0
    ((_, _, (found,)),) = predictions(net, data, plan, size=size, count=1)
    assert 0 < wanted.sum() < wanted.numel()
    assert torch.equal(found == 1, wanted)


def test_a_picture_of_the_inputs_shape_is_evaluated_as_if_it_were_stretched():
    torch.manual_seed(0)
    data, net = Blobs(size=(96, 128)), bench.build("vit_pico", "linear", size=(48, 64), classes=2).eval()
    masks = []
    for way in WAYS[:4]:
        ((_, _, found),) = predictions(net, data, recipe(**way), size=(48, 64), count=4)
        masks.append(found)
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_pictures_of_several_sizes_are_answered_in_their_order():
    class Mixed(Blobs):
        def truth(self, index):
            self.size = [(90, 120), (60, 60)][index % 3 == 0]
            return super().truth(index)

    net = Model(Eye((64, 64)), Bright()).eval()
    sizes = [
        (truth.size, tuple(mask.shape))
        for _, truths, masks in predictions(net, Mixed(), recipe(meet="letterbox"), size=(64, 64), count=7)
        for truth, mask in zip(truths, masks, strict=True)
    ]
    assert sizes == [((60, 60),) * 2 if index % 3 == 0 else ((90, 120),) * 2 for index in range(7)]
