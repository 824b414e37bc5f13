"""What is said of workers that died."""

import signal

import pytest

from bench.launchers import _worker
from bench.launchers._worker import Deaths
from bench.store.record import SETTLED


@pytest.fixture
def kernel(monkeypatch):
    """Sets how many processes the kernel has killed for want of memory."""

    def count(kills):
        monkeypatch.setattr(_worker.oom, "kills", lambda: kills)

    return count


def test_only_what_the_kernel_killed_for_memory_ran_out_of_it(kernel):
    kernel(3)
    status, reason = Deaths().explain(-signal.SIGKILL, 3)
    assert (status, "killed by signal 9" in reason) == ("error", True)
    assert status not in SETTLED, "the next run tries it again"
    kernel(4)
    assert Deaths().explain(-signal.SIGKILL, 3)[0] == "oom"


@pytest.mark.parametrize(("before", "now"), [(None, None), (None, 3), (3, None)])
def test_where_nobody_counts_it_is_not_known(kernel, before, now):
    kernel(now)
    status, reason = Deaths().explain(-signal.SIGKILL, before)
    assert status == "error"
    assert "does not count" in reason


def test_a_kill_of_the_kernels_explains_one_death(kernel):
    deaths = Deaths()
    kernel(4)
    assert [deaths.explain(-signal.SIGKILL, 3)[0] for _ in range(2)] == ["oom", "error"]
    kernel(6)
    assert [deaths.explain(-signal.SIGKILL, 3)[0] for _ in range(2)] == ["oom", "oom"]
