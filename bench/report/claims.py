"""Which differences of an interleaved measure may be claimed.

Two cells of one session were timed in the same rounds: their ratio is the median over the rounds that they share, and
it is a difference when its 95 % confidence interval excludes 1 and it is further from 1 than the session's noise floor
(a cell measured as two). Cells of different sessions are compared through the *anchor*, one cell that was timed in the
rounds of both: each is set against the anchor of its own session, so that what the machine drifted in between cancels.
Of a figure that was taken in company nothing is claimed.
Sessions without a common anchor have nothing that ties them together; there, and where no noise floor is known, a
difference is claimed only beyond `UNLINKED`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.plan.measure import Measure
from bench.stats.sampling import Ratio, by_round, ratio, rounds_of
from bench.store.record import Record

UNLINKED = 0.5
"""Share by which cells of sessions that nothing ties together must differ. A margin by judgement, not by measurement:
what another clock setting, another tenant or another kernel of the system can do to a machine between two days."""


@dataclass(frozen=True)
class Claim:
    """What may be said of one cell against another.

    ratio: first / second. floor: share that it must exceed. Both are None where nothing ties the two together.
    different: whether a difference may be claimed.
    """

    ratio: Ratio | None
    floor: float | None
    different: bool


def claim(measure: Measure, first: Record, second: Record, series: str = "") -> Claim:
    """Compare two ok records of an interleaved measure, of one environment.

    Args:
        measure: of both.
        first: a record.
        second: what it is set against.
        series: which samples; "": those that the measure is interleaved for.
    """
    if first.company or second.company:
        return Claim(None, None, different=False)
    series = series or measure.interleaved
    floors = [record.values.get(measure.floor) for record in (first, second)]
    known = [floor / 100 for floor in floors if isinstance(floor, int | float)]
    together = first.values.get("session") == second.values.get("session") is not None
    if len(known) == len(floors):
        # Two sessions, two pairs of processes that may differ by so much.
        floor = max(known) if together else math.hypot(*known)
        found = _ratio(series, first, second, together=together)
        if found is not None:
            return Claim(found, floor, found.different(floor))
    values = [record.values.get(series) for record in (first, second)]
    if not all(isinstance(value, int | float) and value > 0 for value in values):
        return Claim(None, None, different=False)
    off = abs(math.log(float(values[0]) / float(values[1])))  # pyright: ignore[reportArgumentType] - numbers, above
    return Claim(None, None, off > math.log1p(UNLINKED))


def against_anchor(measure: Measure, record: Record) -> Ratio | None:
    """Series of a record against the anchor of its session, round by round; None: no anchor, or too few rounds."""
    return _linked(record, measure.interleaved)


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
    return Ratio(value, value * math.exp(-below), value * math.exp(above), min(one.rounds, other.rounds))


def _rounds(record: Record, series: str) -> Mapping[int, float]:
    """See `rounds_of`; made once, as all that is reckoned of a record's samples: a large table asks for it often."""
    if ("rounds", series) not in record.memo:
        record.memo["rounds", series] = rounds_of(record.samples, series)
    return record.memo["rounds", series]


def _linked(record: Record, series: str) -> Ratio | None:
    """A record against the anchor of its own session."""
    if ("linked", series) not in record.memo:
        samples = record.samples
        anchor = by_round(samples["anchor_ms"], samples["anchor_ms_round"]) if "anchor_ms" in samples else {}
        record.memo["linked", series] = ratio(_rounds(record, series), anchor) if anchor else None
    return record.memo["linked", series]
