"""Power laws through points, against figures worked out by hand and against simulated noise."""

import math

import numpy as np
import pytest

from bench.stats.power import Law, crossing, fit, law

SIZES = [224**2, 384**2, 512**2, 768**2, 1024**2, 1536**2]
EXACT = [0.0] * len(SIZES)


def line(exponent, constant=3.0, xs=SIZES):
    return [constant * x**exponent for x in xs]


def found(xs, ys, errors) -> Law:
    one = law(xs, ys, errors)
    assert one is not None
    return one


def test_an_exact_law_is_found_and_has_no_width():
    power = fit(SIZES, line(1.7))
    assert power is not None
    assert (power.exponent, power.constant) == pytest.approx((1.7, 3.0))
    assert (power.high - power.low, power.rms, power.worst) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (power.points, power.distinct) == (6, 6)
    assert power.at(10.0) == pytest.approx(3 * 10**1.7)


def test_slope_interval_and_deviations_are_those_worked_out_by_hand():
    # u = 0, 1, 2 and v = 0, 2, 1: b = 1/2, residuals -1/2, 1, -1/2, s² = 1.5, S = 2; t(1) = 12.71.
    power = fit([1, math.e, math.e**2], [1, math.e**2, math.e])
    assert power is not None
    half = 12.7062 * math.sqrt(1.5 / 2)
    assert (power.exponent, power.low, power.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert power.constant == pytest.approx(math.exp(0.5))
    assert power.rms == pytest.approx(math.exp(math.sqrt(0.5)) - 1)
    assert power.worst == pytest.approx(math.e - 1)


def test_two_abscissae_are_no_law_however_many_points():
    assert fit([4, 4, 9, 9], [1, 2, 3, 4]) is None
    assert law([4, 9], [1, 2], [0, 0]) is None


def test_what_is_not_positive_has_no_logarithm():
    with pytest.raises(ValueError, match=r"domain|positive"):
        fit(SIZES, [0.0, 1, 2, 3, 4, 5])


def test_the_interval_holds_the_exponent_19_times_out_of_20():
    draw = np.random.default_rng(5)
    hits = 0
    for _ in range(1500):
        ys = [y * math.exp(0.1 * noise) for y, noise in zip(line(1.2), draw.standard_normal(6), strict=True)]
        power = fit(SIZES, ys)
        assert power is not None
        hits += power.low <= 1.2 <= power.high
    assert hits / 1500 == pytest.approx(0.95, abs=0.017)  # three standard errors


def test_points_that_lie_on_a_line_by_luck_are_known_no_better_than_their_errors():
    # u = 0, 1, 2: b is (v2 - v0) / 2, with the errors 0.1 and 0.2 of its two points; the middle one counts for nothing.
    xs, ys = [1, math.e, math.e**2], [1, math.e, math.e**2]
    power = found(xs, ys, [0.1, 5.0, 0.2]).power
    half = 1.96 * math.hypot(0.1, 0.2) / 2
    assert (power.low, power.high) == pytest.approx((1 - half, 1 + half), abs=1e-4)
    wide = fit(xs, [1, math.e**2, math.e], [0.1, 5.0, 0.2])
    assert wide == fit(xs, [1, math.e**2, math.e]), "scatter beyond the errors counts as it is"
    assert found(xs, ys, [math.inf] * 3).power == fit(xs, ys), "errors that are not known make no interval"


@pytest.mark.parametrize("count", [3, 4, 6])
def test_noise_alone_seldom_speaks_against_a_law(count):
    draw = np.random.default_rng(6)
    xs, errors = SIZES[:count], [0.1] * count
    against = 0
    for _ in range(600):
        ys = [y * math.exp(0.1 * noise) for y, noise in zip(line(1, xs=xs), draw.standard_normal(count), strict=True)]
        against += found(xs, ys, errors).verdict != "holds"
    assert 0 < against / 600 < 0.075  # at most the 5 % that are allowed, with three standard errors


def test_halves_and_their_errors_are_those_worked_out_by_hand():
    # u = 0, 1, 2: the lower exponent is v1 - v0, the upper v2 - v1, their difference v2 - 2 v1 + v0.
    one = found([1, math.e, math.e**2], [1, math.e, math.e**3], [0.1, 0.1, 0.1]).bend
    assert (one.lower, one.upper) == pytest.approx((1, 2))
    assert (one.lower_error, one.upper_error) == pytest.approx((0.1 * math.sqrt(2),) * 2)
    assert one.error == pytest.approx(0.1 * math.sqrt(6)), "the point that both have counts twice in the difference"
    assert one.margin(1.0) == pytest.approx(1.96, abs=0.001)


def test_an_overhead_bends_up_and_a_saturation_bends_down():
    assert found(SIZES, [x / 1e5 + 5 for x in SIZES], EXACT).verdict == "bends up"
    assert found(SIZES, [x / (1 + x / 1e5) for x in SIZES], EXACT).verdict == "bends down"


def test_a_bend_within_the_errors_of_the_points_is_none():
    bent = [x / 1e5 + 1 for x in SIZES]
    assert found(SIZES, bent, [0.02] * 6).verdict == "bends up"
    assert found(SIZES, bent, [0.3] * 6).verdict == "holds"


def test_a_point_off_the_line_is_no_bend_but_scatter():
    # Up in the middle of both halves: neither half has another exponent, and none of the two is a law.
    factors = [1, 1.3, 1, 1, 1.3, 1]
    one = found([4**n for n in range(6)], [4**n * factor for n, factor in enumerate(factors)], EXACT)
    assert one.bend.upper == pytest.approx(one.bend.lower)
    assert one.verdict == "scatters"
    assert one.growth == ""


def test_exact_figures_may_be_a_little_off():
    assert (
        found(SIZES, [y * f for y, f in zip(line(1), [1, 1.02, 0.99, 1.01, 1, 1], strict=True)], EXACT).verdict
        == "holds"
    )


def test_without_errors_nothing_is_said_of_the_law():
    assert found(SIZES, [x / 1e5 + 5 for x in SIZES], [0.1] * 5 + [math.inf]).verdict == "unknown"


@pytest.mark.parametrize(
    ("exponent", "factors", "word"),
    [
        (1.5, [1] * 6, "superlinear"),
        (0.6, [1] * 6, "sublinear"),
        (1.0, [1] * 6, "linear"),
        (1.02, [1] * 6, "linear"),
        (1.0, [1, 1.3, 0.8, 1.2, 0.8, 1.1], "not told from linear"),
    ],
)
def test_growth_in_words(exponent, factors, word):
    ys = [y * factor for y, factor in zip(line(exponent), factors, strict=True)]
    errors = [0.0 if set(factors) == {1} else 0.2] * 6
    assert found(SIZES, ys, errors).growth == word


def test_equal_and_opposite_ratios_cross_in_the_middle_on_logarithms():
    one = crossing((100, 10_000), (0.5, 0.4, 0.6), (2.0, 1.8, 2.5))
    assert one.value == pytest.approx(1000)

    def share(left, right):
        return 100 * 100 ** (math.log(left) / math.log(left / right))

    assert (one.low, one.high) == pytest.approx((share(0.6, 2.5), share(0.4, 1.8)))
    assert one.low < one.value < one.high


def test_a_crossing_knows_no_direction():
    up = crossing((100, 400), (0.8, 0.7, 0.9), (1.5, 1.3, 1.6))
    down = crossing((100, 400), (1 / 0.8, 1 / 0.9, 1 / 0.7), (1 / 1.5, 1 / 1.6, 1 / 1.3))
    assert (up.value, up.low, up.high) == pytest.approx((down.value, down.low, down.high))


def test_an_interval_ends_at_the_points_beside_it():
    one = crossing((100, 400), (0.9, 0.7, 1.1), (1.5, 1.3, 1.6))
    assert one.low == 100
    assert one.high < 400
