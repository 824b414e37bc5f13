"""Where a data set lies, and how to open it, from the name that a cell gives it.

A cell says ``layout`` (``scenes``, ``camvid``) or ``layout:instance`` (``voc:bccd``: the folder ``bccd`` in VOC's
layout), so that two folders of one layout are never taken for one another.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from os import fsencode
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.catalogue import Entry
from bench.data._listing import SPLITS
from bench.data._subset import Without
from bench.data.contract import Dataset, Split, Task
from bench.data.examine import Examined
from bench.data.examine import examine as look
from bench.errors import DataError, UserError, at_home, printable

LISTED = 20
"""Broken files that a message names; the others it counts."""


class Roots:
    """The folders that ``--data-root`` named: ``FOLDER`` that is a data set or holds some, ``NAME=FOLDER`` for one.

    A folder that is there is one, whatever it is called; else what comes before the first "=" is a name, unless it has
    a slash.

    Raises:
        UserError: what is no folder, or may be either.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.named: dict[str, Path] = {}
        self.parents: list[Path] = []
        for argument in arguments:
            whole = at_home(argument)
            name, equals, folder = argument.partition("=")
            named = at_home(folder) if equals and name and folder and "/" not in name else None
            if named is not None and named.is_dir() and whole.is_dir():
                raise UserError(
                    f"--data-root {argument} is a folder, and may be data set {name} in {folder}: "
                    f"write ./{argument} for the one, {name}={named.absolute()} for the other"
                )
            if named is None or whole.is_dir():
                self.parents.append(whole)
            else:
                self.named[name] = whole = named
            if not whole.is_dir():
                raise UserError(f"--data-root {argument}: {whole} is no folder")

    def recognised(self) -> tuple[str, frozenset[Task]]:
        """The data set that the folders are, where none was named, and the tasks that it serves.

        Raises:
            UserError: they are several, or in no layout that is known.
        """
        for parent in self.parents:
            fitting = [layout for layout in layouts(parent) if not layout.missing]
            if fitting and len(self.parents) == 1:
                name = fitting[0].name
                return address(name, parent), frozenset(layout.task for layout in fitting if layout.name == name)
        given = [*map(str, self.parents), *(f"{name}={folder}" for name, folder in self.named.items())]
        raise UserError(
            f"--data-root {' '.join(given)}: the matrix asks for no data set on disk, and which one is meant is not "
            "plain: name it with --dataset; `densebench data FOLDER` says which layout a folder is in, or what is "
            "missing"
        )

    def resolve(self, dataset: str) -> tuple[str, Path | None]:
        """The name with its instance, and the folder.

        ``voc`` found in a folder ``bccd`` becomes ``voc:bccd``; an embedded data set has no folder.

        Raises:
            UserError: no such data set, or no such variant of it. DataError: it needs a folder and none was named.
        """
        entry = catalogue.dataset(dataset)
        layout, _, instance = dataset.partition(":")
        if not entry.facts["root"]:
            _variant(entry, instance)
            return dataset, None
        if "/" in instance or instance in (".", ".."):
            raise UserError(
                f"data set {dataset}: what follows the colon is the name of a folder and no path; say where it is with "
                f"--data-root FOLDER or --data-root NAME=FOLDER, and --dataset {layout}:NAME"
            )
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


def _variant(entry: Entry, instance: str) -> None:
    """Refuse what is no variant of an embedded data set; "" is the data set itself."""
    if instance and "variants" not in entry.facts:
        raise UserError(f"data set {entry.name} is made by densebench and has no variants such as '{instance}'")
    if instance:
        entry.load().variant(instance)


def _named(layout: str, instance: str, root: Path) -> tuple[str, Path]:
    root = root.resolve()
    # Whatever a folder is called, its name is text that can be stored and shown.
    instance = instance or root.name.encode("utf-8", "backslashreplace").decode()
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


@dataclass(frozen=True)
class Layout:
    """A layout that a folder may be in, for one task.

    name: of the data set that reads it. note: what the folder leaves open and how it is decided. missing: why the
    folder is not in it; "" where it is. marks: what is there that speaks for it.
    """

    name: str
    task: Task
    note: str = ""
    missing: str = ""
    marks: tuple[str, ...] = ()


def layouts(root: Path, only: str | None = None) -> tuple[Layout, ...]:
    """Every layout of the catalogue (or ``only`` one), by task: those that the folder is in, then the likeliest others.

    Raises:
        UserError: there is no such data set, or it does not lie on disk.
    """
    entries = [entry for entry in catalogue.entries("data").values() if entry.facts["root"]]
    if only is not None:
        chosen = catalogue.dataset(only)
        if not chosen.facts["root"]:
            raise UserError(f"data set {only} is made by densebench and lies in no folder")
        entries = [chosen]
    ranked: list[tuple[tuple[bool, bool, int], Layout]] = []
    for entry in entries:
        marks = _marks(root, entry.facts.get("marks", ()))
        for task in entry.facts["tasks"]:
            try:
                found = Layout(entry.name, task, note=entry.load().check(root, task) or "", marks=marks)
            except (DataError, OSError) as error:
                found = Layout(entry.name, task, missing=str(error), marks=marks)
            ranked.append(((bool(found.missing), bool(entry.facts.get("general", False)), -len(marks)), found))
    return tuple(found for _, found in sorted(ranked, key=lambda pair: pair[0]))


def _marks(root: Path, patterns: Sequence[str]) -> tuple[str, ...]:
    """Which of the patterns match something, by the first name that they match."""
    found: dict[str, None] = {}
    for pattern in patterns:
        with suppress(OSError):
            if (path := next(root.glob(pattern), None)) is not None:
                found[path.relative_to(root).as_posix()] = None
    return tuple(found)


def address(layout: str, root: Path) -> str:
    """What to give as ``--dataset`` for a folder in a layout, beside ``--data-root`` with the folder."""
    name = root.resolve().name
    # A comma parts values on the command line, and a name of other bytes than text cannot be typed.
    return f"{layout}:{name}" if re.fullmatch(r"[\w.+-]+", name) and name.lower() != layout else layout


def note(dataset: str, task: Task, root: Path | None) -> str:
    """What the folder left open and how it was decided, such as which images are val; "" for nothing.

    Raises:
        DataError: as for `check`.
    """
    return "" if root is None else catalogue.dataset(dataset).load().check(root, task) or ""


def load(
    entry: Entry,
    *,
    task: Task,
    root: Path | None,
    cache: Path,
    split: Split,
    masks: bool = False,
    without: Collection[str] = (),
    instance: str = "",
) -> Dataset:
    """Open one split of a data set.

    Args:
        entry: of the data set.
        task: of the head.
        root: its folder; None for an embedded one.
        cache: folder for what can be made again.
        split: which one.
        masks: with instance masks.
        without: paths of pictures that are left out.
        instance: what the name of the data set has behind its colon; of one with variants it says which.

    Raises:
        DataError: see `bench.data.contract`, or masks are asked of a data set that has none.
    """
    if masks and (refused := no_masks(entry)):
        raise DataError(refused)
    options: dict[str, Any] = {"masks": True} if masks else {}
    if instance and "variants" in entry.facts:
        options["instance"] = instance
    opened = entry.load().load(entry.name, task=task, root=root, cache=cache, split=split, **options)
    classes = tuple(map(printable, opened.classes))  # files of others may call them anything
    if classes != opened.classes:
        opened.classes = classes
    return Without(opened, without) if without else opened


@dataclass(frozen=True)
class Files:
    """The splits of a data set, and what a look at all of their files found."""

    opened: Mapping[Split, Dataset]
    splits: Mapping[Split, Examined]

    def faults(self, splits: Sequence[Split]) -> list[str]:
        """A line for each image of these splits that cannot be used."""
        return [f"{split}: {one.reason}" for split in splits for one in self.splits[split].broken]


@dataclass(frozen=True)
class LeftOut:
    """The pictures of train that are left out because they are broken, and what the record says of it."""

    pictures: tuple[str, ...] = ()
    note: str = ""


def examine(
    dataset: str,
    *,
    task: Task,
    root: Path,
    cache: Path,
    masks: bool = False,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Files:
    """Look at every file of a data set on disk, see `bench.data.examine`; ``report``: (what, done, total).

    Raises:
        DataError: it cannot be opened at all.
    """
    opened: dict[Split, Dataset] = {}
    found: dict[Split, Examined] = {}
    for split in SPLITS:
        opened[split] = load(catalogue.dataset(dataset), task=task, root=root, cache=cache, split=split, masks=masks)
        kind = f"{split}{' with masks' if masks else ''}"
        what = f"{dataset} {split}"
        found[split] = look(opened[split], cache, kind, lambda done, total, what=what: report(what, done, total))
    return Files(opened, found)


def refuse_broken(dataset: str, files: Files, *, skip: bool) -> None:
    """Raise what is broken, as a list; ``skip``: the images of val alone, as those of train are left out.

    Raises:
        DataError: there is some.
    """
    faults = files.faults(("val",) if skip else ("train", "val"))
    if not faults:
        return
    total = sum(len(files.splits[split].images) for split in files.splits)
    more = f"\n  and {len(faults) - LISTED} more; `densebench data FOLDER` lists all" if len(faults) > LISTED else ""
    advice = (
        "mend them: --skip-broken leaves images out of train alone, as others could not be compared on the rest"
        if skip
        else "mend them, or take them out; --skip-broken leaves those of train out, and says so in the record"
    )
    listed = "".join(f"\n  {fault}" for fault in faults[:LISTED])
    raise DataError(
        f"data set {dataset}: {len(faults)} of {total} images cannot be used, so nothing was measured; "
        f"{advice}:{listed}{more}"
    )


def left_out(root: Path, files: Files) -> LeftOut:
    """The broken images of train."""
    train = files.splits["train"]
    pictures = sorted(str(one.picture) for one in train.broken)
    if not pictures:
        return LeftOut()
    names = b"\n".join(fsencode(os.path.relpath(picture, root)) for picture in pictures)
    digest = sha256(names).hexdigest()[:8]
    note = f"{len(pictures)} of {len(train.images)} train images left out as broken ({digest})"
    return LeftOut(tuple(pictures), note)


def no_masks(entry: Entry) -> str:
    """The reason why a data set cannot serve a head that learns from instance masks, or "" where it can."""
    if entry.facts.get("masks", False):
        return ""
    others = [name for name, other in catalogue.entries("data").items() if other.facts.get("masks", False)]
    return (
        f"data set {entry.name} has no instance masks, which this head learns from; "
        f"there are some in {', '.join(others)}"
    )
