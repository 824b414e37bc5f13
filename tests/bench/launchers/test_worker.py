"""What is said of workers that died."""

import signal
from types import SimpleNamespace

import pytest
import torch

from bench.launchers import _worker, worker
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


def on(device):
    return SimpleNamespace(cell=SimpleNamespace(device=device))


def test_a_device_says_what_is_free_and_what_the_process_takes_again(monkeypatch):
    """It holds 1 GiB of 10, had 3, and 6 are free when it has given back what it does not hold."""
    cached = [3]
    accelerator = {
        "is_available": lambda: True,
        "max_memory_reserved": lambda device: 3,
        "empty_cache": lambda: cached.__setitem__(0, 1),
        "memory_reserved": lambda device: cached[0],
        "get_memory_info": lambda device: (7 - cached[0], 10),
    }
    for name, function in accelerator.items():
        monkeypatch.setattr(torch.accelerator, name, function)
    assert worker._memory(on("cuda")) == (0.6, 0.2)


def test_a_device_that_does_not_tell_has_room(monkeypatch):
    def silent(*_):
        raise NotImplementedError

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", silent)
    assert worker._memory(on("mps")) == (1.0, 0.0)


def test_on_a_cpu_it_is_what_the_process_had_and_gave_back(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t 300 kB\nVmRSS:\t 100 kB\n")
    monkeypatch.setattr(worker.machine, "memory", lambda: (1024 * 1000, 0))
    assert worker._host_need(tmp_path / "status") == 0.2
    assert worker._host_need(tmp_path / "none") == 0.0
    assert worker._memory(on("cpu"))[0] == 1.0
