"""``densebench predict``: what a kept model sees in pictures of one's own, drawn over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.contract import Dataset, Sample, Truth
from bench.data.images import read_image, stretch
from bench.errors import DataError
from bench.model.kept import of
from bench.plan.models import Kept
from bench.training.pictures import SCORE, overlay
from bench.training.predict import predictions
from heads.contract import Boxes


class Photograph(Dataset):
    """One picture without labels, upright, as a split of one image.

    Args:
        path: of the picture.
        kept: the model that is to see it.

    Raises:
        DataError: it cannot be read; names the file.
    """

    name = "photograph"

    def __init__(self, path: Path, kept: Kept) -> None:
        self.image: NDArray[np.uint8] = read_image(path, lambda _: True)
        self.task = "detection" if kept.task == "detection" else "segmentation"
        self.classes, self.background = kept.classes, kept.background

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """The picture stretched to ``size`` (H, W)."""
        return stretch(self.image, self.truth(index), size)

    def truth(self, index: int) -> Truth:  # noqa: ARG002 - there is one
        """No labels, of a picture of this size."""
        nothing = np.zeros(0, np.int64)
        return Truth(self.image.shape[:2], None, np.zeros((0, 4), np.float32), nothing, nothing.astype(bool))


@dataclass(frozen=True)
class Seen:
    """What became of one picture: the overlay that was written and what is in it, in words; or why there is none."""

    image: Path
    overlay: Path | None
    words: str


def predict(kept: Kept, images: Sequence[Path], folder: Path) -> Iterator[Seen]:
    """Write an overlay of each picture, ``<folder>/<its name>.png``, and say what is in it.

    The picture meets the model as its recipe says, and what is found is brought back to the picture's own size: the
    geometry in which the model's accuracy was measured. Weights are in float32.

    Args:
        kept: the model.
        images: files; of one that cannot be read, the reason is given.
        folder: is made.

    Raises:
        UserError: the model cannot be opened.
        OSError: the folder cannot be written to.
    """
    net = of(kept)
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path in images:
        try:
            data = Photograph(path, kept)
        except DataError as error:
            yield Seen(path, None, str(error))
            continue
        ((_, _, found),) = predictions(net, data, kept.recipe, size=kept.cell.size, count=1)
        one = found[0].numpy() if isinstance(found, torch.Tensor) else found[0]
        target = folder / f"{_free(path.stem, taken)}.png"
        overlay(data.image, one, kept.classes, kept.background).save(target)
        yield Seen(path, target, _words(one, kept))


def _free(stem: str, taken: set[str]) -> str:
    """A name that no picture before has: two folders may have files of one name."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name


def _words(found: NDArray[np.int64] | Boxes, kept: Kept) -> str:
    """Shares of the classes, or numbers of objects, the largest first."""
    if isinstance(found, Boxes):
        assert found.scores is not None, "a prediction has scores"
        counts = np.bincount(found.labels[found.scores >= SCORE].numpy(), minlength=len(kept.classes))
        words = [f"{counts[one]} {kept.classes[one]}" for one in np.argsort(-counts, kind="stable") if counts[one]]
        return ", ".join(words) or f"nothing above a score of {SCORE:g}"
    shares = np.bincount(found.ravel(), minlength=len(kept.classes)) / found.size
    largest = np.argsort(-shares, kind="stable")
    return ", ".join(f"{kept.classes[one]} {100 * shares[one]:.0f} %" for one in largest if shares[one] >= 0.005)
