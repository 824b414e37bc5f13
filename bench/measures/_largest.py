"""The search for the largest batch that fits: from doubled ones, or from where two small ones say that it is."""

from collections.abc import Callable, Sequence

BOUND = 1 << 16
"""Images that are tried at most."""
EXACT = 256
"""Up to here the answer is exact, above it within a sixteenth."""
SMALL = (1, 8)
"""Batches that a prediction is made from."""


def largest(fits: Callable[[int], bool], *, bound: int = BOUND, predict: Callable[[], int | None] | None = None) -> int:
    """The largest batch that fits, within `grain`; 0 if 1 does not. The last call of ``fits`` was with the answer.

    Args:
        fits: whether a batch does; where a batch does, every smaller one is taken to.
        bound: the most that is tried.
        predict: the answer by what those of `SMALL` have told, if they have; None: nothing is predicted.
    """
    good, bad = _doubled(fits, 0, bound) if predict is None else _around(fits, predict, bound)
    while bad - good > grain(good):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    # What fits within a hair's breadth of the limit need not fit again.
    while good and not fits(good):
        good -= grain(good)
    return good


def grain(batch: int) -> int:
    """By how much an answer may be too low, and one image: a batch larger by this was tried and did not fit."""
    return 1 if batch <= EXACT else batch // 16


def straight(known: Sequence[tuple[int, float | None, float | None]]) -> int | None:
    """The batch at which a straight line through the two largest known ones reaches the limit; None where none does.

    Args:
        known: batches that fit, with what they took and could have taken.
    """
    if len(known) < 2:
        return None
    (small, less, _), (large, more, limit) = sorted(known)[-2:]
    if less is None or more is None or limit is None or more <= less:
        return None
    return large + int((limit - more) * (large - small) / (more - less))


def _doubled(fits: Callable[[int], bool], good: int, bound: int) -> tuple[int, int]:
    """A batch that fits (0: none does), and one that does not."""
    batch = max(1, 2 * good)
    while batch <= bound and fits(batch):
        good, batch = batch, 2 * batch
    return good, min(batch, bound + 1)


def _around(fits: Callable[[int], bool], predict: Callable[[], int | None], bound: int) -> tuple[int, int]:
    """The same, close to each other if the prediction is good: from there in steps that are doubled."""
    good = 0
    for batch in SMALL:
        if batch > bound or not fits(batch):
            return good, min(batch, bound + 1)
        good = batch
    guess = predict()
    if guess is None:
        return _doubled(fits, good, bound)
    guess = min(max(guess, good + 1), bound)
    step = grain(guess - grain(guess))
    if fits(guess):
        good, batch = guess, guess + step
        while batch <= bound and fits(batch):
            step *= 2
            good, batch = batch, batch + step
        return good, min(batch, bound + 1)
    bad = guess
    while bad - step > good:
        if fits(bad - step):
            return bad - step, bad
        bad, step = bad - step, 2 * step
    return good, bad
