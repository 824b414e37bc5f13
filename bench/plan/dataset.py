"""Where a data set lies, and how to open it, from the name that a cell gives it.

A cell says ``layout`` (``scenes``, ``camvid``) or ``layout:instance`` (``voc:bccd``: the folder ``bccd`` in VOC's
layout), so that two folders of one layout are never taken for one another.
"""

from collections.abc import Sequence
from pathlib import Path

from bench import catalogue
from bench.catalogue import Entry
from bench.data.contract import Dataset, Split, Task
from bench.errors import DataError, UserError


class Roots:
    """The folders that ``--data-root`` named: ``FOLDER`` that is a data set or holds some, ``NAME=FOLDER`` for one."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.named: dict[str, Path] = {}
        self.parents: list[Path] = []
        for argument in arguments:
            name, equals, folder = argument.partition("=")
            path = Path(folder if equals else argument).expanduser()
            if not path.is_dir():
                raise UserError(f"--data-root {argument}: {path} is no folder")
            if equals:
                self.named[name] = path
            else:
                self.parents.append(path)

    def resolve(self, dataset: str) -> tuple[str, Path | None]:
        """The name with its instance, and the folder.

        ``voc`` found in a folder ``bccd`` becomes ``voc:bccd``; an embedded data set has no folder.

        Raises:
            UserError: no such data set. DataError: it needs a folder and none was named.
        """
        entry = catalogue.dataset(dataset)
        layout, _, instance = dataset.partition(":")
        if not entry.facts["root"]:
            return dataset, None
        wanted = instance or layout
        for name in (dataset, wanted):
            if name in self.named:
                return _named(layout, instance, self.named[name])
        for parent in self.parents:
            if (parent / wanted).is_dir():
                return _named(layout, instance, parent / wanted)
        for parent in self.parents:
            if parent.resolve().name.lower() == wanted.lower():
                return _named(layout, instance, parent)
        if len(self.parents) == 1 and (not instance or self.parents[0].resolve().name.lower() == instance.lower()):
            return _named(layout, instance, self.parents[0])
        looked = f" (no folder '{wanted}' in {', '.join(map(str, self.parents))})" if self.parents else ""
        raise DataError(
            f"data set {dataset} lies on disk and its folder is not known{looked}: name it with "
            f"--data-root FOLDER or --data-root {wanted}=FOLDER"
        )


def _named(layout: str, instance: str, root: Path) -> tuple[str, Path]:
    root = root.resolve()
    instance = instance or root.name
    return (layout if instance.lower() == layout else f"{layout}:{instance}"), root


def check(dataset: str, task: Task, root: Path | None) -> str:
    """Look at the folder before anything is measured; the reason why it cannot serve this task, or "".

    Raises:
        DataError: the folder is missing, half-present or not in the layout; names what is wrong.
    """
    entry = catalogue.dataset(dataset)
    if task not in entry.facts["tasks"]:
        return f"data set {dataset} has no labels for {task}, only for {', '.join(entry.facts['tasks'])}"
    if root is not None:
        entry.load().check(root, task)
    return ""


def load(entry: Entry, *, task: Task, root: Path | None, cache: Path, split: Split, masks: bool = False) -> Dataset:
    """Open one split of a data set; ``masks``: with instance masks.

    Raises:
        DataError: see `bench.data.contract`, or masks are asked of a data set that has none.
    """
    if not masks:
        return entry.load().load(entry.name, task=task, root=root, cache=cache, split=split)
    if refused := no_masks(entry):
        raise DataError(refused)
    return entry.load().load(entry.name, task=task, root=root, cache=cache, split=split, masks=True)


def no_masks(entry: Entry) -> str:
    """The reason why a data set cannot serve a head that learns from instance masks, or "" where it can."""
    if entry.facts.get("masks", False):
        return ""
    others = [name for name, other in catalogue.entries("data").items() if other.facts.get("masks", False)]
    return (
        f"data set {entry.name} has no instance masks, which this head learns from; "
        f"there are some in {', '.join(others)}"
    )
