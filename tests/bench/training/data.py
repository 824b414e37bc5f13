"""Small data sets of which everything is known."""

import numpy as np

from bench.data.contract import IGNORE, Dataset, Sample, Truth
from bench.data.images import mask_truth

SIZE = (32, 48)


class Halves(Dataset):
    """Left half dark, class 0; right half bright, class 1; one box around the bright half."""

    name, classes, background = "halves", ("dark", "bright"), 0

    def __init__(self, task="segmentation", count=6):
        self.task, self.count = task, count

    def __len__(self):
        return self.count

    def sample(self, index, size):
        height, width = size
        image = np.full((height, width, 3), 20 + index, np.uint8)
        image[:, width // 2 :] = 220
        return Sample(image, self.truth(index, size))

    def truth(self, index, size=SIZE):
        height, width = size
        if self.task == "segmentation":
            mask = np.zeros(size, np.uint8)
            mask[:, width // 2 :] = 1
            return mask_truth(mask)
        box = np.array([[width // 2, 0, width, height]], np.float32)
        return Truth(size, None, box, np.zeros(1, np.int64), np.zeros(1, bool))


class Pair(Halves):
    """Two objects of unlike colour with masks that fill their boxes, the second one ignored; label = its number."""

    def __init__(self, masks=True):
        super().__init__("detection")
        self.with_masks = masks

    def sample(self, index, size):
        truth = self.truth(index, size)
        image = np.zeros((*size, 3), np.uint8)
        for (left, top, right, bottom), value in zip(truth.boxes.astype(int), (100, 200), strict=True):
            image[top:bottom, left:right] = value
        return Sample(image, truth)

    def truth(self, index, size=SIZE):
        height, width = size
        boxes = np.array([[2, 3, width // 2 - 3, height // 2], [width // 2, height // 2, width - 1, height - 4]])
        masks = np.zeros((2, height, width), bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = True
        kept = masks if self.with_masks else None
        return Truth(size, None, boxes.astype(np.float32), np.arange(2), np.array([False, True]), kept)


class Nothing(Halves):
    """Pictures without an object, or with a label map that is ignored all over."""

    def __init__(self, task, masks=False):
        super().__init__(task)
        self.with_masks = masks

    def truth(self, index, size=SIZE):
        mask = np.full(size, IGNORE, np.uint8) if self.task == "segmentation" else None
        masks = np.zeros((0, *size), bool) if self.with_masks else None
        return Truth(size, mask, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), masks)


class Blobs(Dataset):
    """A bright rectangle on black in each picture, in the middle and of random sides; class 1, or a box around it."""

    name, classes, background = "blobs", ("ground", "blob"), 0

    def __init__(self, task="segmentation", size=(90, 120), count=600):
        self.task, self.size, self.count = task, size, count

    def __len__(self):
        return self.count

    def sample(self, index, size):
        assert size == self.size, "asked for in its own shape alone"
        image = np.zeros((*size, 3), np.uint8)
        image[self.blob(index)] = 255
        return Sample(image, self.truth(index))

    def blob(self, index):
        dice = np.random.default_rng(index)
        return tuple(
            slice(side // 2 - int(less), side // 2 + int(more))
            for side, (less, more) in zip(self.size, dice.integers(3, 9, (2, 2)), strict=True)
        )

    def truth(self, index):
        rows, columns = self.blob(index)
        mask = np.zeros(self.size, np.uint8)
        mask[rows, columns] = 1
        if self.task == "segmentation":
            return mask_truth(mask)
        box = np.array([[columns.start, rows.start, columns.stop, rows.stop]], np.float32)
        return Truth(self.size, None, box, np.zeros(1, np.int64), np.zeros(1, bool), mask[None].astype(bool))
