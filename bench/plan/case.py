"""A cell and what its names stand for, looked up once, at the door of the process that measures it.

A cell carries names alone, so that it can be hashed, stored and compared. Whoever measures wants the things: the entry
of its backbone, whether its head learns from masks, its recipe, its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import catalogue
from bench.catalogue import Entry
from bench.data.contract import Dataset, Split, Task
from bench.plan import dataset, recipe
from bench.plan.cell import Cell
from bench.plan.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Case:
    """One cell with the things that it names.

    Attributes:
        cell: the names.
        backbone, head, data: their entries in the catalogue.
        root: folder of the data set; None for an embedded one.
        cache: folder for what can be made again.
        stated: the recipe, where its name stands for a file of the user's.
        without: paths of pictures that are left out of training.
        trained: the file of a kept model, where its weights are of one.
    """

    cell: Cell
    backbone: Entry
    head: Entry
    data: Entry
    root: Path | None
    cache: Path
    stated: Recipe | None = None
    without: tuple[str, ...] = ()
    trained: Path | None = None

    @property
    def task(self) -> Task:
        """What the head predicts."""
        return self.head.facts["task"]

    @property
    def masks(self) -> bool:
        """Whether the head learns from instance masks."""
        return bool(self.head.facts.get("masks", False))

    @cached_property
    def recipe(self) -> Recipe:
        """How it is trained.

        Raises:
            UserError: see `bench.plan.recipe.load`.
        """
        return recipe.load(self.cell.recipe, self.task) if self.stated is None else self.stated

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names of the classes that the head tells apart, those of the training split.

        Raises:
            DataError: see `split`.
        """
        return self._open("train", masks=False).classes

    def split(self, name: Split) -> Dataset:
        """One split of the data set, with instance masks where the head learns from them.

        Raises:
            DataError: see `bench.data.contract`, or masks are asked of a data set that has none.
        """
        return self._open(name, masks=self.masks)

    def _open(self, name: Split, *, masks: bool) -> Dataset:
        return dataset.load(
            self.data,
            task=self.task,
            root=self.root,
            cache=self.cache,
            split=name,
            masks=masks,
            without=self.without if name == "train" else (),
            instance=self.cell.dataset.partition(":")[2],
        )


def resolve(
    cell: Cell,
    *,
    cache: Path,
    root: Path | None = None,
    stated: Recipe | None = None,
    without: tuple[str, ...] = (),
    trained: Path | None = None,
) -> Case:
    """Look up what a cell names.

    Args:
        cell: of this machine, no choice left open.
        cache: folder for what can be made again.
        root: folder of its data set; None for an embedded one.
        stated: its recipe, where that is a file of the user's; None: one that has its name.
        without: paths of pictures that are left out of training.
        trained: the file of a kept model, where its weights are of one; None: it is looked for where it is needed.

    Raises:
        UserError: a name that nothing has.
    """
    return Case(
        cell,
        backbone=catalogue.get("backbones", cell.backbone),
        head=catalogue.get("heads", cell.head),
        data=catalogue.dataset(cell.dataset),
        root=root,
        cache=cache,
        stated=stated,
        without=without,
        trained=trained,
    )
