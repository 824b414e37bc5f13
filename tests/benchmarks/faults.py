"""What the faults of the first pipeline cost: the second one with one of them put back, on the same seeds.

``python -m tests.benchmarks.faults DATA FOLDER [SEEDS] > results/MACHINE/proof/faults.md``: ``DATA`` holds camvid/ and
bccd/, ``FOLDER`` keeps a line for every training that is done, so that a run that was cut off goes on. `SEEDS` trainings of
each cell and way, one a core; about three minutes each on a quiet core.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bench.cache import cache_folder
from bench.plan import matrix
from bench.plan.case import resolve
from bench.plan.environment import describe
from bench.plan.measure import Context

CELLS = {
    "camvid": ("hybrid_pico", "linear", "photos", "miou", "mIoU"),
    "voc:bccd": ("hybrid_pico", "fcos_pico", "cells", "ap", "AP"),
}
"""Data set -> backbone, head, recipe, column and its name."""
SEEDS = 3


def by_floor(span: object, of: int, to: int) -> NDArray[np.intp]:
    """`bench.training.views.Span.centres` as torchvision resizes masks: half a pixel of the input off."""
    from bench.training.views import Span

    assert isinstance(span, Span)
    seen = span.start + np.arange(span.size) / span.zoom
    return np.minimum((seen * (to / of)).astype(np.intp), to - 1)


@contextmanager
def half_a_pixel() -> Iterator[None]:
    """Labels by floor, in training alone: the truth of an evaluation is never scaled."""
    with mock.patch("bench.training.views.Span.centres", by_floor):
        yield


@contextmanager
def black_padding() -> Iterator[None]:
    """What a zoom uncovers stays black, jittered and normalised as if it were a picture."""
    with mock.patch("bench.training.loader.pad"):
        yield


@contextmanager
def mended() -> Iterator[None]:
    """As it is."""
    yield


WAYS = {"mended": mended, "labels half a pixel off": half_a_pixel, "black padding": black_padding}


def train(dataset: str, way: str, seed: int, root: str) -> float:
    """Train and evaluate one cell; its headline figure in per cent."""
    import torch

    from bench.measures import accuracy

    backbone, head, recipe, column, _ = CELLS[dataset]
    axes = {"backbone": backbone, "head": head, "dataset": dataset, "recipe": recipe, "seed": str(seed)}
    asked = matrix.load("photographs").override(
        {"patch": ["native"], **{axis: [value] for axis, value in axes.items()}}
    )
    cell = next(iter(asked.cells(describe())))[0]
    torch.set_num_threads(1)
    folder = Path(root) / dataset.rpartition(":")[2]
    case = resolve(cell, cache=cache_folder(), root=folder)
    with WAYS[way]():
        found = accuracy.measure(cell, Context(lambda *_: None, 1, case)).values[column]
    assert isinstance(found, float)
    return found


def measure(root: str, kept: Path, seeds: int = SEEDS) -> dict[tuple[str, str, int], float]:
    """Every cell, way and seed; what is known already is not trained again."""
    known: dict[tuple[str, str, int], float] = {}
    if kept.exists():
        known = {tuple(key): value for key, value in map(json.loads, kept.read_text(encoding="utf-8").splitlines())}
    todo = [
        (data, way, seed) for seed in range(seeds) for data in CELLS for way in WAYS if (data, way, seed) not in known
    ]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(describe().cores, get_context("spawn")) as pool:
        running = {pool.submit(train, *one, root): one for one in todo}
        for done in as_completed(running):
            one = running[done]
            known[one] = done.result()
            sys.stderr.write(f"{one}: {known[one]:.2f}\n")
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps([one, known[one]]) + "\n")
    return known


def report(found: dict[tuple[str, str, int], float], seeds: int = SEEDS) -> str:
    """Markdown: figures, and what a fault costs on the same seeds with a 95 % interval (Student's t).

    Of one seed there is no interval, and the report says that it is one; what is not in ``found`` was not measured.
    """
    quantile = {1: math.nan, 2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[seeds]
    several = "mean over seeds with its 95 % interval" if seeds > 1 else "of one seed, so without an interval"
    lines = [
        "# What the faults of the first pipeline cost",
        "",
        f"`python -m tests.benchmarks.faults` on {describe().title()}. Recipes `photos` and `cells` with one fault put back; "
        f"{seeds} seed{'s' if seeds > 1 else ''}, the same initial weights, order of images and augmentation in a seed. "
        f"Cost: mended less faulty, {several}.",
        "",
        "| data set | model | way | figure (%), by seed | cost (points) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for data, (backbone, head, _, _, title) in CELLS.items():
        for way in WAYS:
            if any((data, one, seed) not in found for one in ("mended", way) for seed in range(seeds)):
                lines.append(f"| {data} | {backbone} {head} | {way} | not measured | |")
                continue
            values = [found[data, way, seed] for seed in range(seeds)]
            costs = [found[data, "mended", seed] - value for seed, value in enumerate(values)]
            half = f" ± {quantile * statistics.stdev(costs) / math.sqrt(seeds):.2f}" if seeds > 1 else ""
            cost = "" if way == "mended" else f"{statistics.mean(costs):+.2f}{half}"
            figures = ", ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {data} | {backbone} {head} | {way} | {title} {figures} | {cost} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    wanted = int(sys.argv[3]) if len(sys.argv) > 3 else SEEDS
    sys.stdout.write(report(measure(sys.argv[1], Path(sys.argv[2]) / "faults.jsonl", wanted), wanted))
