"""``densebench data``: what a folder of images is, what its labels hold, and all that is broken in it.

What is read: of every picture the header and the end of its file, every label whole (`bench.data.examine`). For the
objects of label maps, which are the connected parts of a class, maps are read once more, evenly spread over the splits
and up to `PIXELS` in all.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.data._listing import first_few
from bench.data.contract import IGNORE, Dataset, Split
from bench.data.examine import Examined, Seen
from bench.errors import DataError, UserError, printable
from bench.plan import dataset
from bench.plan.dataset import Files, Layout

INPUTS = (224, 512, 1024)
"""Sides of the square inputs at which objects are measured, in pixels."""
PATCHES = (8, 16, 32)
PIXELS = 100_000_000
"""Of label maps that are searched for objects: some 20 seconds."""
_NEAR, _INNER = 3, 20
"""Layouts that a folder nearly has, and folders of data sets in it, that are shown."""
_HEADS = {"segmentation": "linear", "detection": "fcos_pico"}
_LARGER = {"segmentation": "linear", "detection": "fcos"}
_STEP = 32
"""Every backbone takes inputs of such multiples."""


@dataclass(frozen=True)
class Objects:
    """Areas of objects, each as a share of its picture.

    shares: (M,) sorted. images, total: from how many pictures, of how many.
    """

    shares: NDArray[np.float64]
    images: int
    total: int

    def at(self, side: int) -> NDArray[np.float64]:
        """Their areas in pixels of an input that the picture is stretched to, ``side`` x ``side``."""
        return self.shares * side**2

    def below(self, side: int, patch: int, *, by_area: bool = False) -> float:
        """The share of them that is smaller than one token, of their number or of their area."""
        areas = self.at(side)
        small = areas < patch**2
        return float(areas[small].sum() / areas.sum() if by_area else small.mean())


@dataclass(frozen=True)
class Survey:
    """What was found of a folder in one layout.

    files: None where it could not be opened, for the reason ``failed``.
    """

    root: Path
    layout: Layout
    classes: tuple[str, ...] = ()
    files: Files | None = None
    objects: Objects | None = None
    command: str = ""
    failed: str = ""

    @property
    def broken(self) -> list[str]:
        """A line for each image that cannot be used."""
        return [self.failed] if self.files is None else self.files.faults(("train", "val"))


@dataclass(frozen=True)
class Found:
    """What a folder is.

    surveys: one for each layout that it is in. near: those that it is nearly in. inner: the data sets in it, by the
    name of their folder.
    """

    root: Path
    surveys: tuple[Survey, ...]
    near: tuple[Layout, ...]
    inner: Mapping[str, Layout]

    @property
    def ok(self) -> bool:
        """Whether it is a data set without a broken file."""
        return bool(self.surveys) and not any(survey.broken for survey in self.surveys)


def look(
    root: Path,
    cache: Path,
    *,
    only: str | None = None,
    gpu: bool = False,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Found:
    """Look at a folder.

    Args:
        root: it.
        cache: folder for what was found of files that have not changed since.
        only: the data set that it is to be read as; None for any that fits.
        gpu: whether the command that is suggested is for a machine with one.
        report: told (what, done, total).

    Raises:
        UserError: it is no folder, or there is no such data set.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder; `densebench data` wants the folder of a data set")
    known = dataset.layouts(root, only)
    fitting = [layout for layout in known if not layout.missing]
    surveys = tuple(_survey(root, layout, cache, gpu=gpu, report=report) for layout in fitting)
    near = [layout for layout in known if layout.missing and (layout.marks or only)]
    inner = {} if fitting or only else dict(_inner(root))
    return Found(root, surveys, () if fitting else tuple(near[:_NEAR]), inner)


def _inner(root: Path) -> Iterator[tuple[str, Layout]]:
    """The data sets one folder down."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror})") from error
    for folder in folders[:_INNER]:
        if fitting := [layout for layout in dataset.layouts(folder) if not layout.missing]:
            yield folder.name, fitting[0]


def _survey(root: Path, layout: Layout, cache: Path, *, gpu: bool, report: Callable[[str, int, int], None]) -> Survey:
    splits: tuple[Split, ...] = ("train", "val")
    try:
        files = dataset.examine(layout.name, task=layout.task, root=root, cache=cache, report=report)
    except DataError as error:
        return Survey(root, layout, failed=str(error))
    opened = [files.opened[split] for split in splits]
    seen = [image for split in splits for image in files.splits[split].seen]
    objects = None
    if seen:
        maps = layout.task == "segmentation"
        objects = _parts(opened, [files.splits[split] for split in splits], report) if maps else _boxes(seen)
    skip = bool(files.splits["train"].broken) and not files.splits["val"].broken
    return Survey(root, layout, opened[0].classes, files, objects, command(root, layout, seen, gpu=gpu, skip=skip))


def command(root: Path, layout: Layout, seen: Sequence[Seen], *, gpu: bool, skip: bool) -> str:
    """The ``densebench run`` that fits: the head of the task, and an input of the pictures' shape.

    ``gpu``: for a machine with one. ``skip``: with --skip-broken.
    """
    words = ["densebench", "run", "--dataset", dataset.address(layout.name, root), "--data-root", str(root)]
    words += ["--head", (_LARGER if gpu else _HEADS)[layout.task]]
    if seen:
        height, width = np.median([image.size for image in seen], axis=0)
        scale = (512 if gpu else 256) / max(height, width)
        sides = (max(_STEP, _STEP * round(side * scale / _STEP)) for side in (height, width))
        words += ["--resolution", "x".join(map(str, sides))]
    return shlex.join([*words, "--recipe", "real", *(["--skip-broken"] if skip else [])])


def _boxes(seen: Sequence[Seen]) -> Objects:
    shares = [tall * wide / (image.size[0] * image.size[1]) for image in seen for tall, wide in image.boxes]
    return Objects(np.sort(np.array(shares, np.float64)), len(seen), len(seen))


def _parts(opened: Sequence[Dataset], examined: Sequence[Examined], report: Callable[[str, int, int], None]) -> Objects:
    """The connected parts of each class (pixels that share a side) in label maps, some if there are many."""
    whole = [
        (data, index, image.size)
        for data, split in zip(opened, examined, strict=True)
        for index, image in enumerate(split.images)
        if isinstance(image, Seen)
    ]
    pixels = sum(height * width for _, _, (height, width) in whole)
    count = max(1, min(len(whole), int(len(whole) * PIXELS / pixels)))
    chosen = [whole[place * len(whole) // count] for place in range(count)]
    shares: list[NDArray[np.float64]] = []
    for done, (data, index, (height, width)) in enumerate(chosen, start=1):
        truth = data.truth(index)
        assert truth.mask is not None, "of a data set of label maps"
        shares.append(areas(truth.mask, data.background) / (height * width))
        report("objects of label maps", done, count)
    return Objects(np.sort(np.concatenate(shares)), count, len(whole))


def areas(mask: NDArray[np.uint8], background: int | None) -> NDArray[np.float64]:
    """(M,) pixels of each connected part of a class in a (H, W) label map; background and ignored ones are none."""
    from scipy import ndimage  # noqa: PLC0415 - a tenth of a second that only this verb needs

    found: list[NDArray[np.float64]] = []
    for label, place in enumerate(ndimage.find_objects(mask.astype(np.int16) + 1)):
        if place is None or label in {background, IGNORE}:
            continue
        inside = mask[place] == label
        parts, _ = ndimage.label(inside)  # pyright: ignore[reportGeneralTypeIssues] - two results for one array
        found.append(np.bincount(parts.ravel())[1:].astype(np.float64))
    return np.concatenate(found) if found else np.zeros(0)


def as_json(found: Found) -> dict[str, object]:
    """For ``data --json``."""
    return {
        "folder": str(found.root),
        "layouts": [_survey_json(survey) for survey in found.surveys],
        "near": [{"dataset": one.name, "task": one.task, "missing": one.missing} for one in found.near],
        "inner": {name: {"dataset": one.name, "task": one.task} for name, one in found.inner.items()},
    }


def _survey_json(survey: Survey) -> dict[str, object]:
    layout = survey.layout
    head: dict[str, object] = {
        "dataset": dataset.address(layout.name, survey.root),
        "task": layout.task,
        "note": layout.note,
        "run": survey.command,
        "broken": survey.broken,
    }
    if survey.files is None:
        return head
    splits = {split: _split_json(one, survey.classes) for split, one in survey.files.splits.items()}
    return {**head, "classes": list(survey.classes), "splits": splits, "objects": _objects_json(survey.objects)}


def _split_json(examined: Examined, classes: Sequence[str]) -> dict[str, object]:
    sizes = np.array([image.size for image in examined.seen]).reshape(-1, 2)
    counts = _counts(examined)
    return {
        "images": len(examined.images),
        "broken": [{"picture": str(one.picture), "reason": one.reason} for one in examined.broken],
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "objects_per_image": _spread([len(image.boxes) for image in examined.seen]),
        "classes": {name: counts.get(label, (0, 0))[0] for label, name in enumerate(classes)},
        "images_with": {name: counts.get(label, (0, 0))[1] for label, name in enumerate(classes)},
        "turned_upright": sum(image.turned is True for image in examined.seen),
        "left_as_stored": sum(image.turned is False for image in examined.seen),
        "ignored": sum(image.ignored for image in examined.seen),
        "ignored_share": _ignored(examined),
    }


def _objects_json(objects: Objects | None) -> dict[str, object] | None:
    if objects is None or not len(objects.shares):
        return None
    inputs: dict[str, object] = {}
    for side in INPUTS:
        smallest, few, middle = np.quantile(objects.at(side), [0, 0.05, 0.5]).tolist()
        tokens = {
            str(patch): {
                "percentile_5": few / patch**2,
                "median": middle / patch**2,
                "share_below_one": objects.below(side, patch),
                "area_below_one": objects.below(side, patch, by_area=True),
            }
            for patch in PATCHES
        }
        inputs[str(side)] = {"smallest_px": smallest, "percentile_5_px": few, "median_px": middle, "tokens": tokens}
    return {"count": len(objects.shares), "images": objects.images, "of_images": objects.total, "inputs": inputs}


def _counts(examined: Examined) -> dict[int, tuple[int, int]]:
    """Label -> its pixels or objects, and the images that have some."""
    found: dict[int, tuple[int, int]] = {}
    for image in examined.seen:
        for label, count in image.counts.items():
            before = found.get(label, (0, 0))
            found[label] = before[0] + count, before[1] + 1
    return found


def _ignored(examined: Examined) -> float | None:
    """Share of the pixels, or of the objects, that count nowhere."""
    ignored = sum(image.ignored for image in examined.seen)
    total = ignored + sum(sum(image.counts.values()) for image in examined.seen)
    return ignored / total if total else None


def _spread(values: Any) -> dict[str, float] | None:
    if not len(values):
        return None
    least, middle, most = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1]).tolist()
    return {"min": least, "median": middle, "max": most}


def render(found: Found) -> list[RenderableType]:
    """For a terminal."""
    if found.surveys:
        return [part for survey in found.surveys for part in _rendered(survey)]
    parts: list[RenderableType] = [_line(f"{found.root} is in none of the layouts that are known")]
    for layout in found.near:
        there = f" (there is {', '.join(layout.marks)})" if layout.marks else ""
        parts.append(_line(f"  nearly {layout.name}, for {layout.task}{there}: {layout.missing}"))
    for name, layout in found.inner.items():
        parts.append(
            _line(
                f"  its folder {name} is in the layout {layout.name}: "
                f"densebench data {shlex.quote(str(found.root / name))}"
            )
        )
    if not found.near and not found.inner:
        parts.append(_line("  and near to none: `densebench list datasets` names them"))
    return parts


def _rendered(survey: Survey) -> Iterator[RenderableType]:
    layout = survey.layout
    yield Text(f"{dataset.address(layout.name, survey.root)}, for {layout.task}", style="bold")
    if layout.note:
        yield _line(layout.note)
    if survey.files is None:
        yield _line(f"cannot be opened: {survey.failed}")
        return
    yield _splits_table(survey.files)
    yield _classes_table(survey)
    counts = _counts(survey.files.splits["train"])
    if untaught := [name for label, name in enumerate(survey.classes) if label not in counts]:
        yield _line(f"no label of train is of {len(untaught)} of these classes: {first_few(untaught, 8)}")
    if survey.objects is not None and len(survey.objects.shares):
        yield _objects_table(survey)
    seen = [image for split in survey.files.splits.values() for image in split.seen if image.turned is not None]
    if seen:
        upright = sum(bool(image.turned) for image in seen)
        yield _line(
            f"EXIF turns {len(seen)} pictures: {upright} are read upright and {len(seen) - upright} as they are "
            "stored, as their labels are"
        )
    broken = survey.broken
    if broken:
        yield _line(f"{len(broken)} images cannot be used:")
        yield from (_line(f"  {fault}") for fault in broken)
    else:
        yield _line("no file is broken, as far as headers, ends of files and labels tell")
    yield _line(f"run it:  {survey.command}")


def _splits_table(files: Files) -> Table:
    table = Table(
        "split", "images", "broken", "height", "width", "objects per image", "ignored", box=None, pad_edge=False
    )
    for split, examined in files.splits.items():
        facts = _split_json(examined, ())
        boxes = any(image.boxes for image in examined.seen)
        share = _ignored(examined)
        table.add_row(
            split,
            str(len(examined.images)),
            str(len(examined.broken)),
            _range(facts["height"]),
            _range(facts["width"]),
            _range(facts["objects_per_image"]) if boxes else "",
            "" if share is None else _percent(share),
        )
    return table


def _range(spread: Any) -> str:
    if spread is None:
        return ""
    least, middle, most = (f"{spread[key]:g}" for key in ("min", "median", "max"))
    return least if least == most else f"{least} to {most}, median {middle}"


def _classes_table(survey: Survey) -> Table:
    assert survey.files is not None, "a folder that was opened"
    maps = survey.layout.task == "segmentation"
    what = "pixels" if maps else "objects"
    table = Table(f"class ({len(survey.classes)})", box=None, pad_edge=False)
    counts = {split: _counts(examined) for split, examined in survey.files.splits.items()}
    for split in counts:
        table.add_column(f"{split}: {what}", justify="right")
        table.add_column("images", justify="right")
    totals = {split: sum(count for count, _ in found.values()) for split, found in counts.items()}
    for label, name in enumerate(survey.classes):
        cells = []
        for split, found in counts.items():
            count, images = found.get(label, (0, 0))
            cells += [f"{100 * count / max(1, totals[split]):.2f} %" if maps else str(count), str(images)]
        table.add_row(Text(printable(name)), *cells)
    return table


def _objects_table(survey: Survey) -> Table:
    objects = survey.objects
    assert objects is not None, "asked before"
    maps = survey.layout.task == "segmentation"
    what = "connected parts of a class" if maps else "boxes"
    some = "" if objects.images == objects.total else f" in {objects.images} of {objects.total} label maps"
    table = Table(
        "input",
        "smallest",
        "5 % are below",
        "median (px)",
        *(f"patch {patch}: tokens of the median; smaller than one" for patch in PATCHES),
        box=None,
        pad_edge=False,
        title=f"{len(objects.shares)} objects ({what}){some}: their areas in pixels and in tokens of a patch size",
        title_justify="left",
    )
    for side in INPUTS:
        smallest, few, middle = np.quantile(objects.at(side), [0, 0.05, 0.5]).tolist()
        cells = []
        for patch in PATCHES:
            # Most parts of a label map are specks: what they are of the area says more.
            area = f" ({_percent(objects.below(side, patch, by_area=True))} of the area)" if maps else ""
            cells.append(f"{_short(middle / patch**2)}; {_percent(objects.below(side, patch))}{area}")
        table.add_row(f"{side}x{side}", *map(_short, (smallest, few, middle)), *cells)
    return table


def _percent(share: float) -> str:
    return f"{_short(100 * share)} %"


def _short(value: float) -> str:
    """Two digits at least, and no exponent."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}" if value >= 0.001 else "0" if not value else "< 0.001"


def _line(text: str) -> Text:
    return Text(printable(text).replace("\n", "\\n"))
