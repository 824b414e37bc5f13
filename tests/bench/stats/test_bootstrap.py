"""The paired bootstrap: what it claims of models whose differences are known."""

import math

import numpy as np
import pytest

from bench.stats.bootstrap import SEEDS, Difference, Replicates, difference, of_one_training
from bench.stats.ranking import Noise
from bench.stats.resample import resamples, weighted_sums


def model(scores, samples=400):
    """Replicates of a model whose figure is the mean of its images' scores (S, N)."""
    scores = np.atleast_2d(scores)
    weights = resamples(scores.shape[1], samples)
    return Replicates(scores.mean(1), weighted_sums(scores.T, weights).T / scores.shape[1])


def test_samples_have_as_many_images_as_there_are_and_are_always_the_same():
    drawn = resamples(50, 300)
    assert drawn.shape == (300, 50)
    assert set(drawn.sum(1)) == {50}
    assert drawn.min() == 0
    assert drawn.max() > 2
    resamples.cache_clear()
    np.testing.assert_array_equal(resamples(50, 300), drawn)
    assert (resamples(50, 300, seed=1) != drawn).any()
    with pytest.raises(ValueError, match="read-only"):
        drawn[0, 0] = 3


def test_sums_over_samples_are_those_of_the_images_repeated():
    counts = np.random.default_rng(0).integers(0, 1000, (20, 3, 2))
    drawn = resamples(20, 600)
    sums = weighted_sums(counts, drawn)
    for index in (0, 299, 599):
        np.testing.assert_array_equal(sums[index], np.repeat(counts, drawn[index], axis=0).sum(0))
    np.testing.assert_array_equal(weighted_sums(counts, None)[0], counts.sum(0))


def test_what_makes_an_image_hard_for_both_cancels():
    """Images differ by 20 points and the models by one: set against each other image by image that is beyond doubt."""
    random = np.random.default_rng(0)
    hard = random.normal(50, 20, 100)
    better = hard + 1 + random.normal(0, 0.5, 100)
    little = Noise(0.01, 50)
    found = difference(model(better), model(hard), little)
    assert found.different
    assert found.low < 1 < found.high
    assert found.high - found.low < 0.5
    strangers = difference(model(better), model(random.permutation(hard)), little)
    assert not strangers.different
    assert strangers.high - strangers.low > 5


def test_two_equal_models_are_not_told_apart():
    scores = np.random.default_rng(0).normal(50, 20, 100)
    found = difference(model(scores), model(scores), Noise(0.0, 3))
    assert found == Difference(0.0, 0.0, 0.0, 3)
    assert not found.different


def test_nothing_is_claimed_where_seeds_are_few_and_their_noise_is_unknown():
    found = difference(model(np.full(50, 90.0)), model(np.full(50, 10.0)), None)
    assert found == Difference(80.0, -math.inf, math.inf)
    assert not found.different


def test_the_seed_noise_of_few_seeds_is_that_of_students_t():
    """Images alike for all: what is left is t with 3 degrees of freedom times the noise of two means."""
    one, other = model(np.full((2, 30), 52.0), 20000), model(np.full((3, 30), 50.0), 20000)
    found = difference(one, other, Noise(0.8, 3))
    half = 3.18 * 0.8 * math.sqrt(1 / 2 + 1 / 3)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=0.15), pytest.approx(2 + half, abs=0.15))
    assert found.value == 2


def test_many_seeds_say_their_spread_themselves():
    """Spread that the pooled noise knows nothing of widens the interval of many seeds, and of them alone."""
    random = np.random.default_rng(0)
    wild = 50 + random.normal(0, 3, (SEEDS, 1)) + np.zeros((1, 40))
    tame = 50 + random.normal(0, 0.01, (SEEDS, 1)) + np.zeros((1, 40))
    noise = Noise(0.01, 100)
    wide = difference(model(wild), model(tame), noise)
    # Two samples of six: t(10) · √(s₁² / 6 + s₂² / 6) on either side.
    half = 2.23 * wild[:, 0].std(ddof=1) / math.sqrt(SEEDS)
    assert (wide.high - wide.low) / 2 == pytest.approx(half, rel=0.2)
    few = difference(model(wild[1:]), model(tame[1:]), noise)
    assert few.high - few.low < 0.1


def test_models_that_were_resampled_differently_are_refused():
    with pytest.raises(ValueError, match="400 and 500 samples of images cannot be paired"):
        difference(model(np.ones(9)), model(np.ones(9), 500), None)


@pytest.mark.parametrize(("seeds", "freedom"), [(1, 3), (3, 4), (SEEDS, 0)])
def test_at_most_one_in_twenty_equal_models_is_called_different(seeds, freedom):
    """Seeds differ by 1 as a whole and by 5 on an image, images by 20. Of 300, more than 8 % has odds of 1 %."""
    random = np.random.default_rng(seeds)
    false = 0
    for _ in range(300):
        hard = random.normal(50, 20, 60)
        runs = [hard + random.normal(0, 1, (seeds, 1)) + random.normal(0, 5, (seeds, 60)) for _ in range(2)]
        spread = math.sqrt(1 + 25 / 60)
        noise = Noise(spread * math.sqrt(random.chisquare(freedom) / freedom), freedom) if freedom else None
        false += difference(*map(model, runs), noise).different
    assert false <= 24


def test_ways_to_run_the_same_weights_differ_by_their_images_alone():
    generator = np.random.default_rng(0)
    scores = generator.normal(50, 20, 40)
    steps = generator.normal(1, 0.1, 40)  # what is lost is nearly the same in easy and in hard images
    found = of_one_training(model(scores), model(scores - steps))
    assert found.value == pytest.approx(steps.mean())
    assert found.different
    assert found.high - found.low == pytest.approx(2 * 1.96 * steps.std() / math.sqrt(40), rel=0.2)
    nothing = of_one_training(model(scores), model(scores))
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    unknown = Replicates(np.array([np.nan]), np.full((1, 400), np.nan))
    assert of_one_training(unknown, unknown).high == math.inf
