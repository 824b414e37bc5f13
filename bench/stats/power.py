"""How a figure grows with another one: power laws, where they do not hold, and where two of them cross.

y = a · x^b is a straight line on logarithms, u = ln x, v = ln y. With means U and V, ordinary least squares give
b = Σ(u - U)(v - V) / S with S = Σ(u - U)², and b ± t(n - 2) · s / √S holds the exponent with 95 % where the points
scatter around the line independently, s² = Σ r² / (n - 2) over their residuals r (Draper and Smith 1998, Applied
Regression Analysis, section 1.4; t: Student's). A few points may scatter less than they are known to, by luck: where
1.96 · √Σ(w e)², the errors e of the points carried through b's weights w = (u - U) / S, is more, the interval is that.
The scatter is that of the points, whatever makes it: noise, or a law that is no power law. So the interval alone says
little where the points bend, and `Law.verdict` looks at that with what each point is known to.

*Bends*: the exponent of the upper half of the points differs from that of the lower half. Both are sums of the points'
logarithms with known weights, and so is their difference, whose standard error follows from those of the points, the
one that the halves share included. It is the one test for what bends a law of time or memory: a constant overhead,
which flattens the small end, and a second term of a higher power, which steepens the large one. Points that lie to and
fro around a line have no use for it, so there is a second one. *Scatters*: a point is further off the line than its
error allows. The two share an error of 5 %: half of it for the bend, half for the points (Bonferroni). A difference of
exponents below `LEAST` or a distance below `NEAR` is of no account, and is all that is asked of figures without an
error, such as counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from bench.stats.ranking import t95
from bench.stats.sampling import CONFIDENCE

DISTINCT = 3
"""Fewest abscissae that differ: through two, every line is exact."""
LEAST = 0.05
"""Difference of exponents that is of no account: over ten times the input it is a factor of 1.12."""
NEAR = 0.05
"""Share by which a point without an error may be off the line: nobody chooses an input size by less."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

Verdict = Literal["holds", "bends up", "bends down", "scatters", "unknown"]


@dataclass(frozen=True)
class Power:
    """y = constant · x^exponent.

    low, high: 95 % confidence interval of the exponent. rms, worst: root mean square and largest deviation of a point
    from the line, as shares. distinct: abscissae that differ.
    """

    exponent: float
    low: float
    high: float
    constant: float
    rms: float
    worst: float
    points: int
    distinct: int

    def at(self, x: float) -> float:
        """What the law says there."""
        return self.constant * x**self.exponent


@dataclass(frozen=True)
class Bend:
    """Exponents of the lower and of the upper half of the points; with an odd number, both have the middle one.

    lower_error, upper_error, error: standard errors of the two, and of their difference, from those of the points;
    infinite where one is not known.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    error: float

    def margin(self, error: float) -> float:
        """Half of a 95 % interval of one of the exponents, from its standard error."""
        return _Z * error


@dataclass(frozen=True)
class Law:
    """A power law over points, and what speaks against it."""

    power: Power
    bend: Bend
    verdict: Verdict

    @property
    def growth(self) -> str:
        """The exponent against 1, in words; "" where the law does not hold."""
        power = self.power
        if self.verdict not in ("holds", "unknown"):
            return ""
        if power.low > 1 and power.exponent > 1 + LEAST:
            return "superlinear"
        if power.high < 1 and power.exponent < 1 - LEAST:
            return "sublinear"
        return "linear" if max(power.high - 1, 1 - power.low) <= LEAST else "not told from linear"


@dataclass(frozen=True)
class Crossing:
    """Where two figures are equal, and the ends of its interval."""

    value: float
    low: float
    high: float


def fit(xs: Sequence[float], ys: Sequence[float], errors: Sequence[float] = ()) -> Power | None:
    """The power law through points; None where fewer than `DISTINCT` abscissae differ.

    Args:
        xs: abscissae.
        ys: ordinates.
        errors: standard errors of ln y, as for `law`; without them the interval is from the scatter alone.

    Raises:
        ValueError: x and y are not of one length, or one of them is not positive.
    """
    us, vs = [math.log(x) for x in xs], [math.log(y) for y in ys]
    distinct = len(set(us))
    if distinct < DISTINCT:
        return None
    weights = _weights(us)
    exponent = math.fsum(weight * v for weight, v in zip(weights, vs, strict=True))
    level = _mean(vs) - exponent * _mean(us)
    off = [v - level - exponent * u for u, v in zip(us, vs, strict=True)]
    squares, freedom = math.fsum(one**2 for one in off), len(off) - 2
    half = t95(freedom) * math.sqrt(squares / freedom * math.fsum(weight**2 for weight in weights))
    if errors and math.isfinite(known := _Z * _carried(weights, errors)):
        half = max(half, known)
    return Power(
        exponent=exponent,
        low=exponent - half,
        high=exponent + half,
        constant=math.exp(level),
        rms=math.expm1(math.sqrt(squares / len(off))),
        worst=math.expm1(max(map(abs, off))),
        points=len(off),
        distinct=distinct,
    )


def law(xs: Sequence[float], ys: Sequence[float], errors: Sequence[float]) -> Law | None:
    """The power law through points, and whether it holds; None where fewer than `DISTINCT` abscissae differ.

    Args:
        xs: abscissae.
        ys: ordinates.
        errors: standard errors of ln y: 0 for what is exact, infinite for what is not known.

    Raises:
        ValueError: lengths differ, or an x or a y is not positive.
    """
    power = fit(xs, ys, errors)
    if power is None:
        return None
    bend = _bend([math.log(x) for x in xs], [math.log(y) for y in ys], errors)
    return Law(power, bend, _verdict(power, bend, xs, ys, errors))


def crossing(
    xs: tuple[float, float], first: tuple[float, float, float], second: tuple[float, float, float]
) -> Crossing:
    """Where a ratio is 1, on a straight line between two points on logarithms of both.

    The ends of the interval are where the line through both lower ends, and the one through both upper ends, is 1: what
    is right if both ratios err together, and more than 95 % if they err by themselves. An end that lies beyond a point
    is cut there. What the ratio does between the points is not in it.

    Args:
        xs: of the two points.
        first: ratio at the first point, and the lower and upper end of its 95 % interval.
        second: likewise; the ratios lie on different sides of 1.
    """
    left, right = math.log(xs[0]), math.log(xs[1])

    def equal(one: float, other: float) -> float:
        if (one < 1) == (other < 1):  # no longer on different sides: as far as the point that went over
            return xs[0] if abs(math.log(one)) < abs(math.log(other)) else xs[1]
        share = math.log(one) / (math.log(one) - math.log(other))
        return math.exp(left + share * (right - left))

    value, *ends = (equal(one, other) for one, other in zip(first, second, strict=True))
    return Crossing(value, min(ends), max(ends))


def _bend(us: Sequence[float], vs: Sequence[float], errors: Sequence[float]) -> Bend:
    places = sorted(set(us))
    half = (len(places) + 1) // 2
    lower = _weights(us, within=(places[0], places[half - 1]))
    upper = _weights(us, within=(places[-half], places[-1]))

    def total(weights: Sequence[float]) -> float:
        return math.fsum(weight * v for weight, v in zip(weights, vs, strict=True))

    between = [one - other for one, other in zip(upper, lower, strict=True)]
    return Bend(total(lower), total(upper), *(_carried(weights, errors) for weights in (lower, upper, between)))


def _verdict(power: Power, bend: Bend, xs: Sequence[float], ys: Sequence[float], errors: Sequence[float]) -> Verdict:
    if not math.isfinite(math.fsum(errors)):
        return "unknown"
    share = (1 - CONFIDENCE) / 2  # for each of the two tests
    difference = bend.upper - bend.lower
    if abs(difference) > max(LEAST, NormalDist().inv_cdf(1 - share / 2) * bend.error):
        return "bends up" if difference > 0 else "bends down"
    z = NormalDist().inv_cdf(1 - share / len(errors) / 2)
    off = [abs(math.log(y / power.at(x))) for x, y in zip(xs, ys, strict=True)]
    far = any(one > max(math.log1p(NEAR), z * error) for one, error in zip(off, errors, strict=True))
    return "scatters" if far else "holds"


def _weights(us: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)) -> list[float]:
    """What each v counts in the slope of those within these bounds: (u - U) / S, and 0 for the others."""
    chosen = [u for u in us if within[0] <= u <= within[1]]
    middle = _mean(chosen)
    squares = math.fsum((u - middle) ** 2 for u in chosen)
    return [(u - middle) / squares if within[0] <= u <= within[1] else 0.0 for u in us]


def _carried(weights: Sequence[float], errors: Sequence[float]) -> float:
    """Standard error of a sum with these weights, of independent terms."""
    return math.sqrt(math.fsum((weight * one) ** 2 for weight, one in zip(weights, errors, strict=True) if weight))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
