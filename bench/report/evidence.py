"""Which differences of an accuracy may be claimed.

Where both measurements have kept what is known of every image (`bench.store.images`) and the images are the same, by a
paired bootstrap over images and seeds (`bench.stats.bootstrap`); elsewhere by the seed noise that is pooled over the
table (`bench.stats.ranking`), and where that is unknown, too, any difference counts.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.plan.measure import IMAGES
from bench.stats.bootstrap import SEEDS, Difference, Replicates, difference
from bench.stats.family import Family
from bench.stats.overlap import Overlaps
from bench.stats.precision import Detections
from bench.stats.ranking import Noise
from bench.stats.resample import RESAMPLES, resamples
from bench.store import images
from bench.store.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.report.rows import Part


@dataclass(frozen=True)
class Paired:
    """Of the measurements that are ranked together: how many there are, and what is kept of them.

    paired: have their images kept, the same as at least one other. pictures, seeds: the least and the most that one of
    these has.
    """

    parts: int
    paired: int
    pictures: tuple[int, int]
    seeds: tuple[int, int]

    def sentence(self, title: str, noise: Noise | None, family: Family) -> str:
        """What makes or breaks a tie; "" where no two of them are compared image by image."""
        if not self.paired:
            return ""
        least, most = self.pictures
        which = "" if self.paired == self.parts else f" of the {self.paired} rows that have kept their images"
        count = f"{most}" if least == most else f"{least} to {most}"
        method = f"a paired bootstrap over the {count} images ({RESAMPLES} samples)"
        fewest, most = self.seeds
        if noise is None and fewest < SEEDS:
            return (
                f"{title}{which}: seed noise is unknown (no row has two seeds), and {method} alone is no ground to "
                "claim a difference: they share a rank."
            )
        seeds = f"their {fewest} seeds or more"
        if fewest < SEEDS and noise is not None:
            own = f"; between rows of {SEEDS} seeds or more, their own" if most >= SEEDS else ""
            seeds = f"seed noise (sd {noise.sd:.2f}, {noise.freedom} degrees of freedom{own})"
        return (
            f"{title}{which}: rows share a rank when {method} and {seeds} cannot tell them apart from the best of "
            f"their group ({family.sentence()})."
        )


def chance(column: str, noise: Noise | None) -> "Callable[[Part, Part], float]":
    """A function that gives the p-value of two measurements' being equal in a column, each pair reckoned once.

    column: or ``column[class]``. noise: seed noise of it; None: where it is all that there is, any difference counts.
    """
    known: dict[frozenset[Part], float] = {}

    def equal(one: "Part", other: "Part") -> float:
        pair = frozenset((one, other))
        if pair not in known:
            found = compared(one, other, column, noise)
            first, second = one.values[column], other.values[column]
            gap = first.mean - second.mean
            plain = noise.chance(gap, first.n, second.n) if noise else float(gap == 0)
            known[pair] = found.p if found is not None else plain
        return known[pair]

    return equal


def compared(one: "Part", other: "Part", column: str, noise: Noise | None) -> Difference | None:
    """One less the other, image by image; None where they have not kept the same images.

    Raises:
        UserError: what was kept cannot be read; names the file.
    """
    first, second = _replicates(one, column), _replicates(other, column)
    if first is None or second is None or first[0] != second[0]:
        return None
    return difference(first[1], second[1], noise)


def pairing(parts: "Iterable[Part]", column: str) -> Paired:
    """What is kept of measurements that are ranked by a column.

    Raises:
        UserError: what was kept cannot be read; names the file.
    """
    distinct = list(dict.fromkeys(parts))
    found = [kept for part in distinct if (kept := _replicates(part, column)) is not None]
    which = [pictures for pictures, _ in found]
    shared = [kept for kept in found if which.count(kept[0]) > 1]
    counts = [len(pictures) // 8 for pictures, _ in shared] or [0]
    seeds = [len(replicates.whole) for _, replicates in shared] or [0]
    return Paired(len(distinct), len(shared), (min(counts), max(counts)), (min(seeds), max(seeds)))


def _replicates(part: "Part", column: str) -> tuple[bytes, Replicates] | None:
    """Which images, and the column of every seed on samples of them; None where a seed has none or other images."""
    if part.folder is None:
        return None
    known = [_of_record(part.folder, record, column) for record in part.records if record.status == "ok"]
    found = [one for one in known if one is not None]
    if not found or len(found) < len(known) or len({pictures for pictures, *_ in found}) > 1:
        return None
    return found[0][0], Replicates(np.array([whole for _, whole, _ in found]), np.stack([drawn for *_, drawn in found]))


def _of_record(folder: Path, record: Record, column: str) -> tuple[bytes, float, NDArray[np.float64]] | None:
    digest = record.values.get(IMAGES)
    return _figure(folder, digest, column) if isinstance(digest, str) else None


# By content: while a run goes on its tables are made again and again.
@lru_cache(maxsize=4096)
def _figure(folder: Path, digest: str, column: str) -> tuple[bytes, float, NDArray[np.float64]] | None:
    """Which images (8 bytes each), a column on all of them, and on each sample of them."""
    kept = _kept(folder, digest)
    whole = None if kept is None else kept.figure(column)
    if kept is None or whole is None or math.isnan(whole[0]):
        return None
    drawn = kept.figure(column, resamples(len(kept.images)))
    assert drawn is not None, "it is known on all images"
    return kept.images.tobytes(), float(whole[0]), drawn


@lru_cache(maxsize=8)
def _kept(folder: Path, digest: str) -> Overlaps | Detections | None:
    arrays = images.read(folder / images.FOLDER, digest)
    if arrays is None:
        return None
    return (Detections if "score" in arrays else Overlaps).from_arrays(arrays)
