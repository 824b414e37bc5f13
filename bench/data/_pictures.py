"""Pictures on disk: what their data sets share, whatever the labels are kept in.

Which way up. A camera stores the pixels as its sensor lay and says in the EXIF how to turn them. Tools that show a
picture upright (Label Studio, CVAT, Roboflow) give labels of the upright picture, others those of the stored one. What
the labels say of the picture's size decides where it can. Where it cannot, as for a square picture or one that is
upside down, the others of the data set decide: it is upright if those that tell are, and as stored otherwise.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from bench.data._listing import Item
from bench.data.contract import Dataset, Sample, Task, Truth
from bench.data.images import Header, SampleCache, Size, read_header, read_image, stretch
from bench.errors import DataError

SLACK = 2.0
"""Pixels by which a size that labels tell may be off the picture's and still mean it."""
_WITNESSES = 1000
"""Pictures that are asked, at most, which way up a data set's labels are."""


class Pictures(Dataset):
    """Pictures with labels of one task; a subclass says where a picture lies and reads its labels."""

    def __init__(self, name: str, task: Task, classes: Sequence[str]) -> None:
        self.name = name
        self.task = task
        self.classes = tuple(classes)
        self._cache = SampleCache()

    @abstractmethod
    def told(self, index: int, header: Header) -> Size | None:
        """(H, W) of the frame in which the labels were made; None where they do not tell.

        Raises:
            DataError: the labels cannot be read.
        """

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """Image and labels stretched to ``size`` (H, W)."""
        return self._cache.get((index, size), lambda: self._stretched(index, size))

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """Picture and labels in their own shape."""
        return self._cache.get((index, "whole", enough), lambda: self._loaded(index, enough), copy=False)

    def verify(self, index: int) -> Truth:
        """Labels without masks, after a look at the header and the end of the picture's file."""
        header = read_header(self.files(index)[0], whole=True)
        truth = self.labels(index)
        self._fits(index, header.upright if self.upright(index, header) else header.size, truth.size)
        return truth

    def turned(self, index: int) -> bool | None:
        """Whether a picture that its EXIF turns is shown upright, as its labels are."""
        header = read_header(self.files(index)[0])
        return None if header.orientation == 1 else self.upright(index, header)

    def labels(self, index: int) -> Truth:
        """`truth` without masks of objects, which are only checked."""
        return self.truth(index)

    def upright(self, index: int, header: Header) -> bool:
        """Whether a picture is to be turned as its EXIF says."""
        if header.orientation == 1:
            return False
        decided = self._decided(index, header)
        return self._labelled_upright if decided is None else decided

    def _decided(self, index: int, header: Header) -> bool | None:
        """What the labels say of which way up their picture is; None where they do not tell."""
        if header.upright == header.size or (told := self.told(index, header)) is None:
            return None
        as_stored, as_shown = _near(told, header.size), _near(told, header.upright)
        return None if as_stored == as_shown else as_shown

    @cached_property
    def _labelled_upright(self) -> bool:
        """Whether the pictures that tell are labelled upright, all of them."""
        said: set[bool] = set()
        for index in range(min(len(self), _WITNESSES)):
            with suppress(DataError):  # a broken picture tells nothing here, and is named where it is read
                decided = self._decided(index, read_header(self.files(index)[0]))
                said |= set() if decided is None else {decided}
        return said == {True}

    def _stretched(self, index: int, size: Size) -> Sample:
        sample = self._loaded(index)
        return stretch(sample.image, sample.truth, size)

    def _loaded(self, index: int, enough: Size | None = None) -> Sample:
        path, truth = self.files(index)[0], self.truth(index)
        header = read_header(path)
        upright = self.upright(index, header)
        self._fits(index, header.upright if upright else header.size, truth.size)
        return Sample(read_image(path, lambda _: upright, enough), truth)

    def _fits(self, index: int, size: Size, told: Size) -> None:
        """Raise `DataError` where the labels are those of a picture of another size."""
        if size != told:
            image, *labels = self.files(index)
            message = (
                f"{image}: {size[1]} x {size[0]} pixels, but its labels{f' in {labels[0].name}' if labels else ''} are "
                f"of {told[1]} x {told[0]}; want the same"
            )
            raise DataError(message)


def _near(told: Size, size: Size) -> bool:
    return abs(told[0] - size[0]) <= SLACK and abs(told[1] - size[1]) <= SLACK


class Listed(Pictures):
    """Pictures that lie beside their labels as `Item`s."""

    def __init__(self, name: str, task: Task, classes: Sequence[str], items: Sequence[Item]) -> None:
        super().__init__(name, task, classes)
        self._items = list(items)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._items)

    def files(self, index: int) -> tuple[Path, ...]:
        """The picture, and the file of its labels where it has one."""
        item = self._items[index]
        return (item.image,) if item.label is None else (item.image, item.label)
