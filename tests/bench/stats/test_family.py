"""What may be claimed together, against closed forms and simulations."""

import math
import random
from itertools import combinations

import pytest

from bench.stats import family as families
from bench.stats.family import ALONE, ALPHA, claimed, family, holm
from bench.stats.ranking import Noise, quantile, tails


def test_holms_steps_are_those_worked_out_by_hand():
    # 0.01 <= 0.05 / 4, 0.013 <= 0.05 / 3, but 0.03 > 0.05 / 2.
    assert holm([0.03, 0.013, 0.9, 0.01]) == pytest.approx(0.05 / 3)
    assert holm([0.02, 0.9]) == pytest.approx(0.05 / 2), "the first step is the hardest"
    assert holm([0.02, 0.03]) == pytest.approx(0.05), "and the last is a single comparison"
    assert holm([]) == ALPHA


def test_all_pairs_of_each_group_and_none_between_groups_are_one_family():
    asked = []

    def chance(one, other):
        asked.append((one, other))
        return 1.0

    found = family(("abc", chance), ("xy", chance))
    assert (found.pairs, found.level) == (4, pytest.approx(ALPHA / 4))
    assert asked == [*combinations("abc", 2), ("x", "y")]
    assert "all 4 comparisons" in found.sentence()
    assert family(("abc", chance), ("ab", chance)).pairs == 3, "a comparison that is made twice is one"
    assert family(("ab", chance)).sentence() == "95 %" == ALONE.sentence()


def test_many_pairs_are_not_all_looked_at(monkeypatch):
    monkeypatch.setattr(families, "MOST", 9)
    found = family((range(5), lambda *_: pytest.fail("it was asked for")))
    assert (found.pairs, found.level) == (10, ALPHA / 10)


def test_students_t_is_that_of_the_tables():
    assert [quantile(freedom) for freedom in (1, 3, 10, math.inf)] == pytest.approx([12.706, 3.182, 2.228, 1.960], 1e-3)
    assert quantile(10, 0.001) == pytest.approx(4.587, 1e-3)
    assert tails(3.182, 3) == pytest.approx(0.05, 1e-3)
    noise = Noise(2.0, 5)
    assert noise.chance(noise.difference(2, 3, 0.01), 2, 3) == pytest.approx(0.01)
    assert (Noise(0.0, 5).chance(0.0, 1, 1), Noise(0.0, 5).chance(0.1, 1, 1)) == (1, 0)


def tables(claims, count=200):
    """How many of so many tables claim anything, with and without the correction."""
    corrected = single = 0
    for _ in range(count):
        items, chance = claims()
        level = family((items, chance)).level
        pairs = list(combinations(items, 2))
        corrected += any(claimed(chance, level)(*pair) for pair in pairs)
        single += any(claimed(chance, ALPHA)(*pair) for pair in pairs)
    return corrected, single


@pytest.mark.parametrize(("cells", "seeds"), [(6, 2), (12, 3)])
def test_of_200_tables_of_equal_accuracies_at_most_one_in_twenty_claims_anything(cells, seeds):
    generator = random.Random(cells)

    def claims():
        scores = [[generator.gauss(50, 1) for _ in range(seeds)] for _ in range(cells)]
        means = [sum(own) / seeds for own in scores]
        freedom = cells * (seeds - 1)
        squares = sum((score - mean) ** 2 for own, mean in zip(scores, means, strict=True) for score in own)
        noise = Noise(math.sqrt(squares / freedom), freedom)
        return range(cells), lambda one, other: noise.chance(means[one] - means[other], seeds, seeds)

    corrected, single = tables(claims)
    assert corrected <= 10, "5 % of 200"
    assert single > 40, "without the correction most tables of a dozen rows claim something"
