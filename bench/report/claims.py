"""Which differences of an interleaved measure may be claimed.

Two cells of one session were timed in the same rounds: their ratio is the median over the rounds that they share. It
is a difference when three things say so: its 95 % confidence interval excludes 1; it is further from 1 than the
session's noise floor (a cell measured as two); and it is more than two processes of one cell may differ by, which
rounds cannot show however many there are (Kalibera and Jones 2013, Rigorous benchmarking in reasonable time). That is
learnt from all sessions that are at hand, see `processes`. Of many differences that are claimed together each has to be
surer, see `bench.stats.family`.

Cells of different sessions are compared through the *anchor*, one cell that was timed in the rounds of both: each is
set against the anchor of its own session, so that what the machine drifted in between cancels. Two GPUs of one kind are
not equally fast, and need not be so by one factor for every cell: what the anchor differs by on the two is added to the
floor. Of a figure that was taken in company nothing is claimed.
Sessions without a common anchor have nothing that ties them together; there, and where no noise floor is known, a
difference is claimed only beyond `UNLINKED`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan.measure import CARD, NODE, Measure
from bench.stats.family import ALPHA
from bench.stats.ranking import Noise
from bench.stats.sampling import Ratio, by_round, ratio, rounds_of
from bench.store.record import Record

TWINS = ("anchor_ms", "twin_ms")
UNLINKED = 0.5
"""Share by which cells of sessions that nothing ties together must differ. A margin by judgement, not by measurement:
what another clock setting, another tenant or another kernel of the system can do to a machine between two days."""
TWINS_DIFFER = (0.005, 0.02)
"""Bounds of the standard deviation of the ratio of two processes of one cell, as a share, that is supposed before
sessions were seen. The upper is that of A against A on a busy two-core machine (200 comparisons,
``results/two-core-epyc/proof/noise.md``: half of the ratios are within 1.3 %). Between the two the noise floors decide:
they are less on a quiet machine. The lower is a judgement, and so is that it counts as much as `SUPPOSED` sessions: one
pair of twins says little, and may by chance be equal."""
SUPPOSED = 8
TAILS = 4
"""Degrees of freedom of the Student's t that judges by it, however many sessions were seen. The spread is known well
after some, but it has long tails: one process in a hundred is slower than its like by a tenth, in every round. Of 130
tables of six equal cells 13 claimed something with 8 degrees of freedom, 6 would with 4
(``tests/benchmarks/tables.py``)."""
_NORMAL = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Claim:
    """What may be said of one cell against another.

    ratio: first / second. floor: share that it must exceed. Both are None where nothing ties the two together. p:
    p-value of their being equal, the larger of what rounds and processes leave; 1 where a difference is not beyond
    the floor, and 0 where nothing ties the two together and they differ by more than `UNLINKED`, which is a
    judgement and no test.
    """

    ratio: Ratio | None
    floor: float | None
    p: float

    @property
    def different(self) -> bool:
        """Whether a difference may be claimed, if it is all that is claimed."""
        return self.p <= ALPHA


def processes(measure: Measure, records: Iterable[Record]) -> Noise:
    """What processes of one cell differ by, as a share: the twins of some records' sessions, and what is supposed.

    Every session timed its anchor in two processes.
    """
    sessions = {str(record.values.get("session")): record for record in records if record.status == "ok"}
    found = [math.log(ratio.value) for record in sessions.values() if (ratio := _twins(record)) is not None]
    floors = [record.values.get(measure.floor) for record in sessions.values()]
    known = [floor / 100 for floor in floors if isinstance(floor, int | float)]
    low, high = TWINS_DIFFER
    supposed = min(max(median(known), low), high) if known else high
    squares = SUPPOSED * supposed**2 + math.fsum(gap**2 for gap in found)
    return Noise(math.sqrt(squares / (SUPPOSED + len(found)) / 2), TAILS)


def claim(measure: Measure, first: Record, second: Record, series: str = "", *, between: Noise | None = None) -> Claim:
    """Compare two ok records of an interleaved measure, of one environment.

    Args:
        measure: of both.
        first: a record.
        second: what it is set against.
        series: which samples; "": those that the measure is interleaved for.
        between: what processes of one cell differ by; None: what the sessions of these two say.
    """
    if first.company or second.company:
        return Claim(None, None, 1.0)
    series = series or measure.interleaved
    floors = [record.values.get(measure.floor) for record in (first, second)]
    known = [floor / 100 for floor in floors if isinstance(floor, int | float)]
    together = first.values.get("session") == second.values.get("session") is not None
    if len(known) == len(floors):
        # Two sessions, two pairs of processes that may differ by so much.
        floor = max(known) if together else math.hypot(*known) + _places_differ(first, second)
        found = _ratio(series, first, second, together=together)
        if found is not None:
            # A link is two more processes.
            between = between or processes(measure, (first, second))
            apart = math.log(found.value) / (1 if together else math.sqrt(2))
            # Processes of one cell have never been seen to differ by as much.
            by_processes = between.chance(apart, 1, 1) if abs(apart) <= math.log1p(UNLINKED) else 0.0
            return Claim(found, floor, max(found.beyond(floor), by_processes))
    values = [record.values.get(series) for record in (first, second)]
    if not all(isinstance(value, int | float) and value > 0 for value in values):
        return Claim(None, None, 1.0)
    off = abs(math.log(float(values[0]) / float(values[1])))  # pyright: ignore[reportArgumentType] - numbers, above
    return Claim(None, None, 0.0 if off > math.log1p(UNLINKED) else 1.0)


def _places_differ(first: Record, second: Record) -> float:
    """What the anchor differs by on the two cards or nodes that records were measured on, as a share; 0 on one."""
    places = [(record.values.get(CARD), record.values.get(NODE)) for record in (first, second)]
    anchors = [record.samples.get(TWINS[0]) for record in (first, second)]
    if places[0] == places[1] or not anchors[0] or not anchors[1]:
        return 0.0
    return abs(math.log(median(anchors[0]) / median(anchors[1])))


def against_anchor(measure: Measure, record: Record, series: str = "") -> Ratio | None:
    """Series of a record against the anchor of its session, round by round; None: no anchor, or too few rounds."""
    return _linked(record, series or measure.interleaved)


class Unlinked:
    """Of many records, which differences cannot be claimed, found in arrays: a large table has a million pairs.

    Where nothing ties two records together, their figures alone decide; of all others it says nothing.
    """

    def __init__(self, measure: Measure, records: Sequence[Record], series: str) -> None:
        values = [record.values.get(series) for record in records]
        known = [value if isinstance(value, int | float) and value > 0 else math.nan for value in values]
        self._logs = np.log(np.array(known, dtype=float))
        self._floored = np.array([isinstance(record.values.get(measure.floor), int | float) for record in records])
        self._sessions = _numbered([record.values.get("session") for record in records])
        self._anchors = _numbered([record.values.get("anchor") for record in records])

    def may_differ(self, one: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of ``others`` may be claimed to differ from ``one``; both are places among the records."""
        tied = (self._sessions[others] == self._sessions[one]) | (self._anchors[others] == self._anchors[one])
        tied &= self._floored[others] & self._floored[one]
        # A little less than `claim` asks for: there it is the logarithm of a quotient, rounded another way.
        return tied | (np.abs(self._logs[others] - self._logs[one]) > math.log1p(UNLINKED) - 1e-9)


def _numbered(names: Sequence[Any]) -> NDArray[np.intp]:
    """Equal names as equal numbers."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(str(name), len(numbers)) for name in names], dtype=np.intp)


def _ratio(series: str, first: Record, second: Record, *, together: bool) -> Ratio | None:
    if together:
        return ratio(_rounds(first, series), _rounds(second, series))
    if first.values.get("anchor") != second.values.get("anchor"):
        return None
    one, other = _linked(first, series), _linked(second, series)
    if one is None or other is None:
        return None
    value = one.value / other.value
    # Independent errors of the two links, on the scale of logarithms.
    below = math.hypot(math.log(one.value / one.low), math.log(other.high / other.value))
    above = math.hypot(math.log(one.high / one.value), math.log(other.value / other.low))
    nearer = below if value > 1 else above
    # As of a normal distribution with that interval.
    p = math.erfc(_NORMAL * abs(math.log(value)) / nearer / math.sqrt(2)) if nearer else float(value == 1)
    return Ratio(value, value * math.exp(-below), value * math.exp(above), min(one.rounds, other.rounds), p)


def _rounds(record: Record, series: str) -> Mapping[int, float]:
    """See `rounds_of`; made once, as all that is reckoned of a record's samples: a large table asks for it often."""
    if ("rounds", series) not in record.memo:
        record.memo["rounds", series] = rounds_of(record.samples, series)
    return record.memo["rounds", series]


def _twins(record: Record) -> Ratio | None:
    """The anchor of a record's session against its twin."""
    if "twins" not in record.memo:
        samples = record.samples
        sides = [by_round(samples[name], samples[f"{name}_round"]) for name in TWINS if name in samples]
        record.memo["twins"] = ratio(*sides) if len(sides) == len(TWINS) else None
    return record.memo["twins"]


def _linked(record: Record, series: str) -> Ratio | None:
    """A record against the anchor of its own session."""
    if ("linked", series) not in record.memo:
        samples = record.samples
        anchor = by_round(samples["anchor_ms"], samples["anchor_ms_round"]) if "anchor_ms" in samples else {}
        record.memo["linked", series] = ratio(_rounds(record, series), anchor) if anchor else None
    return record.memo["linked", series]
