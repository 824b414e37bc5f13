"""Detections: what every one of them hit, and COCO's average precision and recall over any sample of images.

Matching happens once, image by image (`bench.training.matching`), and does not depend on which images are looked at.
What is kept of it gives AP over any sample as COCO's evaluation would over pictures repeated as often: precision at 101
points of recall, the largest at that recall or a higher one, averaged over ten IoU thresholds and then over classes.
(Of equal scores within one image its copies come side by side here, and copy by copy there.)
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.stats.resample import Weights, weighted_sums

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection counts as right."""
RECALLS = np.linspace(0, 1, 101)
MOST = 100
"""Detections of one class in one image that count: those of the highest scores."""
_AT = {"50": [0], "75": [5]}
_COLUMN = re.compile(
    r"(?P<mask>mask_)?(ap(?P<at>50|75)?|ar_(?P<most>1|10|100))|"
    r"(?P<coco>coco_)?(?P<mask_>mask_)?ap_(?P<size>small|medium|large)"
)
_CHUNK = 1 << 20
"""Numbers that are worked on at a time."""


@dataclass(frozen=True)
class Matches:
    """How detections fared against the truth of one kind (boxes or masks) and range of areas.

    truths: (N, K) objects to be found. entry: (E,) which detections could be right or wrong at any threshold. hit,
    ignored: (E,) uint16, bit t: at `THRESHOLDS`[t] it is right; it counts neither way.
    """

    truths: NDArray[np.int64]
    entry: NDArray[np.int64]
    hit: NDArray[np.uint16]
    ignored: NDArray[np.uint16]


@dataclass(frozen=True)
class Detections:
    """D detections in N images of K classes, and their matches.

    images: (N,) uint64, a fingerprint of each image's truth. classes: K names. score, image, label: (D,), image by
    image, class by class, by falling score. place: (D,) place among those of its image and class, from 0. matches: name
    ("box", "box_small", "box_coco_small", "mask" and so on) -> `Matches`.
    """

    images: NDArray[np.uint64]
    classes: tuple[str, ...]
    score: NDArray[np.float32]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    place: NDArray[np.int64]
    matches: Mapping[str, Matches]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a file; see `from_arrays`."""
        found: dict[str, NDArray[Any]] = {
            "images": self.images,
            "classes": np.array(self.classes, np.str_),
            "score": self.score,
            "image": self.image.astype(np.uint32),
            "label": self.label.astype(np.uint16),
            "place": self.place.astype(np.uint8),
        }
        for name, one in self.matches.items():
            found |= {
                f"{name}.truths": one.truths.astype(np.uint16),
                f"{name}.entry": one.entry.astype(np.uint32),
                f"{name}.hit": one.hit,
                f"{name}.ignored": one.ignored,
            }
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Detections":
        """What `arrays` made.

        Raises:
            KeyError: an array is missing.
        """
        matches = {
            name.removesuffix(".truths"): Matches(
                arrays[name].astype(np.int64),
                arrays[name.replace(".truths", ".entry")].astype(np.int64),
                arrays[name.replace(".truths", ".hit")],
                arrays[name.replace(".truths", ".ignored")],
            )
            for name in arrays
            if name.endswith(".truths")
        }
        whole = {name: arrays[name].astype(np.int64) for name in ("image", "label", "place")}
        return cls(arrays["images"], tuple(arrays["classes"].tolist()), arrays["score"], matches=matches, **whole)

    def figure(self, column: str, weights: Weights | None = None) -> NDArray[np.float64] | None:
        """A column of `accuracy` in percent, (R,) for R samples of the images; None: no column of what is known here.

        Args:
            column: ``ap``, ``ap50``, ``ap75``, ``ap_small`` (medium, large), ``coco_ap_small`` …, ``ar_1`` (10, 100);
                with ``mask_`` before ``ap`` or ``ar`` that of masks; or ``class_ap[NAME]``.
            weights: (R, N), how often each image is in each sample; None: one sample, each image once.

        nan where there is nothing to be found in a sample.
        """
        if column.startswith("class_ap["):
            chosen = column.removeprefix("class_ap[").removesuffix("]")
            if chosen not in self.classes:
                return None
            return self._precision("box", weights, classes=[self.classes.index(chosen)])
        found = _COLUMN.fullmatch(column)
        if found is None:
            return None
        kind = "mask" if found["mask"] or found["mask_"] else "box"
        if found["most"]:
            return self._recall(kind, int(found["most"]), weights)
        areas = f"{'_coco' if found['coco'] else ''}_{found['size']}" if found["size"] else ""
        return self._precision(kind + areas, weights, _AT.get(found["at"]))

    def _precision(
        self,
        name: str,
        weights: Weights | None,
        thresholds: list[int] | None = None,
        classes: list[int] | None = None,
    ) -> NDArray[np.float64] | None:
        """Mean over thresholds and over the classes that a sample has objects of; None: these were not matched."""
        if name not in self.matches:
            return None
        thresholds = list(range(len(THRESHOLDS))) if thresholds is None else thresholds
        classes = list(range(len(self.classes))) if classes is None else classes
        drawn = np.ones((1, len(self.images)), np.uint8) if weights is None else weights
        truths = weighted_sums(self.matches[name].truths, weights)[:, classes]
        found = np.zeros_like(truths)
        for column, number in enumerate(classes):
            ranking = self._rankings[name].get(number)
            if ranking is not None:
                for rows in _chunks(len(drawn), len(ranking.image)):
                    found[rows, column] = ranking.precision(drawn[rows], truths[rows, column], thresholds)
        known = truths > 0
        count = known.sum(1)
        total = np.where(known, found, 0).sum(1)
        return 100 * np.divide(total, count, out=np.full(len(drawn), np.nan), where=count > 0)

    def _recall(self, name: str, most: int, weights: Weights | None) -> NDArray[np.float64] | None:
        """Share of the objects that are found with so many detections, averaged over thresholds and classes."""
        matches = self.matches.get(name)
        if matches is None:
            return None
        kept = self.place[matches.entry] < most
        entry, right = matches.entry[kept], _bits(matches.hit[kept]).sum(1)
        hits = np.zeros_like(matches.truths)
        np.add.at(hits, (self.image[entry], self.label[entry]), right)
        sums = weighted_sums(np.stack([hits, matches.truths * len(THRESHOLDS)], -1), weights)
        known = sums[..., 1] > 0
        shares = np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=known)
        count = known.sum(1)
        return 100 * np.divide(shares.sum(1), count, out=np.full(len(sums), np.nan), where=count > 0)

    @cached_property
    def _rankings(self) -> dict[str, dict[int, "_Ranking"]]:
        """Name of matches -> class -> its detections by falling score."""
        return {name: dict(self._ranked(one)) for name, one in self.matches.items()}

    def _ranked(self, matches: Matches) -> Iterator[tuple[int, "_Ranking"]]:
        # Stable: of equal scores the first image counts first, as in COCO's evaluation.
        order = np.argsort(-self.score[matches.entry], kind="stable")
        entry = matches.entry[order]
        for number in np.unique(self.label[entry]).tolist():
            ours = self.label[entry] == number
            ignored = matches.ignored[order][ours]
            yield number, _Ranking(self.image[entry[ours]], _bits(matches.hit[order][ours] & ~ignored), _bits(ignored))


@dataclass(frozen=True)
class _Ranking:
    """The detections of one class by falling score.

    image: (D,). hit: (D, T) right and counted. ignored: (D, T).
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    def precision(self, weights: Weights, truths: NDArray[np.float64], thresholds: list[int]) -> NDArray[np.float64]:
        """(R,) AP in 0..1, averaged over these thresholds; anything where a sample has no truth.

        An image that is in a sample twice has each of its detections twice in a row. Precision rises along the second
        of two hits, so at no recall does the largest one at or beyond it differ from that after both: the sums over
        all copies are enough.
        """
        # Samples last: what is summed up row by row lies side by side. Float32 holds these whole numbers exactly.
        drawn = np.ascontiguousarray(weights.T, np.float32)  # (N, R)
        everything = drawn[self.image].cumsum(0)
        objects = np.maximum(truths, 1)
        total = np.zeros(len(weights))
        for threshold in thresholds:
            hits = np.flatnonzero(self.hit[:, threshold])
            if not len(hits):
                continue
            seen = everything[hits]
            if len(ignored := np.flatnonzero(self.ignored[:, threshold])):
                before = np.concatenate([np.zeros_like(seen[:1]), drawn[self.image[ignored]].cumsum(0)])
                seen = seen - before[np.searchsorted(ignored, hits)]
            right = drawn[self.image[hits]].cumsum(0).astype(np.float64)
            # Before its first detection a sample has no precision, and nothing that could be right.
            best = np.maximum.accumulate((right / np.maximum(seen, 1))[::-1])[::-1]
            # The first hit that reaches a point of recall gives its precision. One of an image that is not in the
            # sample reaches none, but for the point 0 where it comes first; there the best of all counts anyhow.
            total += (best * np.diff(_points(right / objects), axis=0, prepend=0)).sum(0)
        return total / (len(thresholds) * len(RECALLS))


def _points(recall: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of `RECALLS` lie at or below each recall (in 0..1), just as a search among them would find."""
    nearest = np.rint(recall * (len(RECALLS) - 1)).astype(np.int64)
    return nearest + (recall >= RECALLS[nearest])


def _bits(packed: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(E,) to (E, T)."""
    return (packed[:, None] >> np.arange(len(THRESHOLDS), dtype=np.uint16) & 1).astype(np.bool_)


def _chunks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, width))
    return (slice(start, start + step) for start in range(0, rows, step))
