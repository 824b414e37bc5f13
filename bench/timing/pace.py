"""How long a turn is on a kind of device: short on a CPU, long on a GPU, whose clock follows its power."""

from dataclasses import dataclass

from bench.timing.clock import calls_within


@dataclass(frozen=True)
class Pace:
    """How long a turn is.

    Attributes:
        round_s, most: seconds of a turn for the main call, and the most calls in it that are kept.
        part_s, part_most: the same for a part. A turn has the main call and at most one part, the next turn another.
        settle_s, settle_most: seconds of calls before a turn that are not kept, and the most of them.
        settled_ms: a call of so many or more needs none.
        filled: whether a turn of calls so short that ``most`` of them do not fill it is filled with ones not kept.
    """

    round_s: float
    most: int
    part_s: float
    part_most: int
    settle_s: float
    settle_most: int
    settled_ms: float
    filled: bool

    def settling(self, ms: float) -> int:
        """Calls of ``ms`` before a turn that are not kept."""
        if ms >= self.settled_ms:
            return 0
        lacking = self.round_s - calls_within(self.round_s, ms, most=self.most) * ms / 1e3 if self.filled else 0.0
        return calls_within(self.settle_s + max(0.0, lacking), ms, most=self.settle_most)


CPU = Pace(0.008, 10, 0.004, 5, 0.004, 10, 20.0, filled=False)
"""Short turns, and many: on a shared machine the ratio of two neighbours scatters as much over turns of a hundred calls
as over turns of one, so only their number helps. What settles are caches, and clocks that are the last cell's, whose
threads still spin for a moment (`bench.launchers._worker` sees to it that it is a short one)."""
DEVICE = Pace(0.075, 100, 0.025, 25, 0.03, 1000, 120.0, filled=True)
"""Of anything else. A GPU averages its power over tens of milliseconds, and lowers its clock when that reaches the
limit: in a burst of 8 ms it is faster than under the load of a service, which is what its figures are for. It idles
between turns, so that a turn begins with work that is not kept."""


def pace_of(device: str) -> Pace:
    """The pace of a cell's device."""
    return CPU if device == "cpu" else DEVICE
