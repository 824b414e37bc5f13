"""Statistics of rounds, against simulations and closed forms."""

import math
import random

import pytest

from bench.stats.family import ALPHA
from bench.stats.sampling import (
    ENOUGH,
    ROUNDS,
    beside_others,
    by_round,
    enough,
    interval,
    noise_floor,
    quantile,
    rank,
    ratio,
    rounds_of,
    signs,
)


def test_six_rounds_are_the_fewest_that_hold_the_median():
    assert [rank(count) for count in range(1, ROUNDS)] == [None] * (ROUNDS - 1)
    # Exact binomial tails, as in the tables of David and Nagaraja: 6 -> ends, 9 -> second, 15 -> fourth, 20 -> sixth.
    assert {count: rank(count) for count in (6, 8, 9, 15, 20)} == {6: 0, 8: 0, 9: 1, 15: 3, 20: 5}


@pytest.mark.parametrize("count", [6, 9, 20, 41])
def test_the_interval_holds_the_median_as_often_as_it_says(count):
    generator = random.Random(count)
    held = 0
    for _ in range(4000):
        found = interval([generator.lognormvariate(0, 1) for _ in range(count)])
        held += found.low <= 1 <= found.high
    assert held / 4000 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert held / 4000 < 0.985, "and is not wider than it need be"


@pytest.mark.parametrize("count", [6, 9, 12, 25, 60])
def test_the_p_value_is_five_percent_where_the_interval_ends(count):
    """An interval excludes 0 just where the sign test does."""
    generator = random.Random(count)
    seen = set()
    for _ in range(300):
        values = [generator.gauss(0.4, 1) for _ in range(count)]
        found = interval(values)
        seen.add(signs(values) <= ALPHA)
        assert (signs(values) <= ALPHA) == (not found.low <= 0 <= found.high)
    assert seen == {True, False}


def test_too_few_rounds_promise_nothing():
    found = interval([1.0, 1.0, 1.0])
    assert (found.low, found.high, found.half) == (-math.inf, math.inf, math.inf)
    assert not enough([1.0] * (ROUNDS - 1), target=0.01)
    assert enough([1.0] * ROUNDS, target=0.01)
    assert not enough([1.0, 1.1] * 3, target=0.01)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_a_drift_that_both_share_does_not_reach_the_ratio():
    generator = random.Random(1)
    drift = [1 + index / 10 for index in range(20)]
    first = {index: drift[index] * 2.2 * generator.gauss(1, 0.002) for index in range(20)}
    second = {index: drift[index] * 2.0 * generator.gauss(1, 0.002) for index in range(20)}
    found = ratio(first, second)
    assert found.value == pytest.approx(1.1, rel=0.002)
    assert found.high / found.low < 1.01, "while each of the two nearly triples"
    assert found.beyond(0.05) == found.p == 2 / 2**20, "all rounds say so"
    assert found.beyond(0.12) == 1, "below the noise floor nothing is claimed"
    assert ratio({0: 1.0}, second) is None


@pytest.mark.parametrize("spread", [0.002, 0.03])
def test_a_cell_is_seldom_told_from_itself_and_a_slower_one_is(spread):
    """Processes that differ by a constant of their own, as real ones do, and rounds that scatter."""
    generator = random.Random(7)

    def rounds(factor, count=12):
        own = generator.gauss(1, spread / 3)
        return {index: factor * own * generator.gauss(1, spread) for index in range(count)}

    claimed = {1.0: 0, 1.02: 0, 1.2: 0}
    for _ in range(400):
        floor = noise_floor(rounds(1), rounds(1))
        for factor in claimed:
            claimed[factor] += ratio(rounds(factor), rounds(1)).beyond(floor) <= ALPHA
    assert claimed[1.0] / 400 <= 0.05
    assert claimed[1.2] / 400 >= 0.97
    assert (claimed[1.02] / 400 > 0.9) == (spread < 0.01), "what is found depends on the noise"


def test_quantiles_are_given_from_enough_samples_only():
    samples = list(range(1, 1001))
    assert quantile(samples, 0.5) == 500.5
    assert quantile(samples, 0.9) == pytest.approx(900.1)
    assert quantile(samples, 0.99) == pytest.approx(990.01)
    for share, count in ENOUGH.items():
        assert quantile(samples[: count - 1], share) is None
        assert quantile(samples[:count], share) is not None
    with pytest.raises(KeyError):
        quantile(samples, 0.95)


def test_disturbed_rounds_are_left_out_unless_they_were_allowed():
    samples = {"x_ms": [1.0, 3.0, 9.0, 2.0], "x_ms_round": [0, 0, 1, 2], "disturbed_round": [1.0]}
    assert rounds_of(samples, "x_ms") == {0: 2.0, 2: 2.0}
    samples["company_round"] = samples.pop("disturbed_round")
    assert rounds_of(samples, "x_ms") == {0: 2.0, 1: 9.0, 2: 2.0}
    assert rounds_of({"forward_ms": [1.0]}, "forward_ms") == {}
    with pytest.raises(ValueError, match=r"shorter|longer"):
        by_round([1.0], [0, 1])


def test_beside_others_the_interval_reaches_down_to_what_the_fastest_round_may_have_been():
    found = beside_others([10.0, 12.0, 11.0, 30.0], 0.5)
    assert (found.median, found.low, found.high) == (11.5, 5.0, 30.0)
    steady = beside_others([10.0] * 50, 0.5)
    assert steady.half == 0.25, "rounds that agree are no reason to trust them"
    assert beside_others([10.0], 0.0).low == 0.0
