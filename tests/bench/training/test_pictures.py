from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.data.contract import Dataset, Truth
from bench.training.pictures import LEGEND_ROW, MARGIN, VEIL, WIDTH, draw, overlay, palette
from heads.contract import Boxes

SIZE = (120, 240)  # drawn at its own size, so that pixels can be named


class Shapes(Dataset):
    name, task, classes = "shapes", "detection", ("a", "b")

    def __len__(self):
        return 1

    def sample(self, index, size):
        raise NotImplementedError

    def truth(self, index):
        raise NotImplementedError


def drawn(path: Path, *, masks: bool, photographs: bool = True):
    """The cells image | truth | prediction of one row; the second prediction has a score too low to be drawn."""
    boxes = np.array([[20, 20, 100, 100], [150, 10, 230, 110]], np.float32)
    shapes = np.zeros((2, *SIZE), bool)
    shapes[0, 40:80, 40:80] = shapes[1, 30:90, 170:210] = True
    labels = np.array([0, 1])
    truth = Truth(SIZE, None, boxes, labels, np.zeros(2, bool), shapes if masks else None)
    found = Boxes(
        torch.from_numpy(boxes),
        torch.from_numpy(labels),
        torch.tensor([0.9, 0.1]),
        masks=torch.from_numpy(shapes) if masks else None,
    )
    image = np.full((*SIZE, 3), 200, np.uint8)
    draw([(image, truth, found)], Shapes(), path, photographs=photographs)
    sheet = np.asarray(Image.open(path)).astype(int)
    cells = 3 if photographs else 2
    assert sheet.shape[1] == cells * (WIDTH + MARGIN)
    return [sheet[LEGEND_ROW : LEGEND_ROW + SIZE[0], column * (WIDTH + MARGIN) :][:, :WIDTH] for column in range(cells)]


def test_masks_are_a_veil_over_the_picture_and_boxes_stand_round_them(tmp_path):
    image, truth, prediction = drawn(tmp_path / "sheet.png", masks=True)
    assert (image == 200).all()
    colours = np.array(palette(2, None))
    veils = 200 + (colours - 200) * VEIL
    assert np.abs(truth[60, 60] - veils[0]).max() <= 2
    assert np.abs(truth[60, 190] - veils[1]).max() <= 2
    assert (truth[30, 30] == 200).all(), "in the box and not in the mask"
    assert (truth[20, 60] == colours[0]).all(), "the box's edge is opaque"
    assert np.abs(prediction[60, 60] - veils[0]).max() <= 2
    assert (prediction[60, 190] == 200).all(), "below the score that is drawn"


def test_without_masks_boxes_are_empty(tmp_path):
    _, truth, prediction = drawn(tmp_path / "sheet.png", masks=False)
    assert (truth[60, 60] == 200).all()
    assert (prediction[60, 60] == 200).all()
    assert (truth[20, 60] == palette(2, None)[0]).all()


def test_photographs_may_be_left_out_and_masks_are_drawn_on_grey(tmp_path):
    truth, prediction = drawn(tmp_path / "sheet.png", masks=True, photographs=False)
    assert (truth[5, 5] == 128).all()
    assert (truth[60, 60] != 128).any()
    assert (prediction[5, 5] == 128).all()


def test_an_overlay_has_boxes_with_names_and_a_legend_of_the_classes_that_occur():
    image = np.full((200, 300, 3), 120, np.uint8)
    masks = torch.zeros(2, 200, 300, dtype=torch.bool)
    masks[0, 60:120, 60:120] = True
    boxes = torch.tensor([[40.0, 40, 160, 160], [180, 40, 280, 160]])
    found = Boxes(boxes, torch.tensor([1, 0]), torch.tensor([0.9, 0.1]), masks=masks)
    sheet = np.asarray(overlay(image, found, ("a", "b"), None)).astype(int)
    colours = np.array(palette(2, None))
    assert (sheet[160, 100] == colours[1]).all(), "the lower edge of the box"
    assert np.abs(sheet[100, 100] - (120 + (colours[1] - 120) * VEIL)).max() <= 2, "in the mask"
    assert (sheet[150, 150] == 120).all(), "in the box and not in the mask"
    assert (sheet[42:52, 43:60] == 255).all(2).any(), "a name on paper"
    assert (sheet[40:160, 180:281] == 120).all(), "below the score that is drawn"
    legend = {tuple(pixel) for pixel in sheet[200:].reshape(-1, 3)}
    assert tuple(colours[1]) in legend
    assert tuple(colours[0]) not in legend
    nothing = Boxes(boxes, torch.tensor([1, 0]), torch.zeros(2))
    assert (np.asarray(overlay(image, nothing, ("a", "b"), None)) == image).all()
