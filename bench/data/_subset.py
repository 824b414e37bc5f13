"""A data set without some of its images."""

from collections.abc import Collection
from pathlib import Path

from bench.data.contract import Dataset, Sample, Truth
from bench.errors import DataError


class Without(Dataset):
    """The images of ``dataset`` whose pictures are not among ``pictures``, in their order.

    Raises:
        DataError: none are left.
    """

    def __init__(self, dataset: Dataset, pictures: Collection[str]) -> None:
        self.name = dataset.name
        self.task = dataset.task
        self.classes = dataset.classes
        self.background = dataset.background
        self.flips = dataset.flips
        self.pair = dataset.pair
        self._dataset = dataset
        out = frozenset(pictures)
        self._rows = [index for index in range(len(dataset)) if str(dataset.files(index)[0]) not in out]
        if not self._rows:
            message = f"data set {dataset.name}: all of its {len(dataset)} images are left out"
            raise DataError(message)

    def __len__(self) -> int:
        """Return the number of images that are left."""
        return len(self._rows)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """As the data set's."""
        return self._dataset.sample(self._rows[index], size)

    def whole(self, index: int, enough: tuple[int, int]) -> Sample:
        """As the data set's."""
        return self._dataset.whole(self._rows[index], enough)

    def truth(self, index: int) -> Truth:
        """As the data set's."""
        return self._dataset.truth(self._rows[index])

    def files(self, index: int) -> tuple[Path, ...]:
        """As the data set's."""
        return self._dataset.files(self._rows[index])

    def turned(self, index: int) -> bool | None:
        """As the data set's."""
        return self._dataset.turned(self._rows[index])

    def verify(self, index: int) -> Truth:
        """As the data set's."""
        return self._dataset.verify(self._rows[index])
