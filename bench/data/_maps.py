"""Pictures with label maps: images whose pixels are class indices or the colours of classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data._listing import Item, first_few
from bench.data._pictures import Listed
from bench.data.contract import IGNORE, Truth
from bench.data.images import Colour, Header, Size, mask_truth, read_header, read_labels
from bench.errors import DataError


def targets(indices: Mapping[int, int]) -> NDArray[np.int16]:
    """(256,) stored label -> class index; 255 stays ignored, and -1 stands where no such label exists."""
    table = np.full(IGNORE + 1, -1, np.int16)
    table[IGNORE] = IGNORE
    for label, index in indices.items():
        table[label] = index
    return table


def plain(count: int) -> NDArray[np.int16]:
    """The targets of maps that store the class index itself, of ``count`` classes."""
    return targets({index: index for index in range(count)})


def background_of(classes: Sequence[str]) -> int | None:
    """Index of the class named background; None if there is none."""
    names = [name.strip("_").casefold() for name in classes]  # labelme calls it _background_
    return names.index("background") if "background" in names else None


class LabelMaps(Listed):
    """Pictures with label maps of the same size.

    Args:
        name: of the data set.
        items: the images of the split.
        classes: their names, by index.
        table: (256,) stored label -> class index, see `targets`.
        colours: index of each colour of coloured label maps, or nothing.
        hint: what a label that is out of range would have to be, for the message.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        classes: Sequence[str],
        *,
        table: NDArray[np.int16],
        colours: Mapping[Colour, int] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(name, "segmentation", classes, items)
        self.background = background_of(classes)
        self._table = table
        self._colours = colours or None
        self._hint = hint or (
            f"there are {len(classes)} classes ({first_few(classes)}), so labels are 0 to {len(classes) - 1}, and "
            f"{IGNORE} for ignored"
        )

    def told(self, index: int, header: Header) -> Size:
        """The size of the label map."""
        del header
        return read_header(self.files(index)[1]).size

    def truth(self, index: int) -> Truth:
        """Read the label map as it was drawn."""
        path = self.files(index)[1]
        values = read_labels(path, self._colours)
        mask = self._table[values]
        if mask.min(initial=0) < 0:
            message = f"{path}: label {values[mask < 0].max()} is out of range; {self._hint}"
            raise DataError(message)
        return mask_truth(mask.astype(np.uint8))
