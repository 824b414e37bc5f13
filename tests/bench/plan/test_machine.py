"""Limits, nvidia-smi and processes, from made-up folders and programs."""

import os
import subprocess
import sys

import pytest

from bench.plan import machine
from bench.plan.machine import Smi, ask_smi, cpu_quota, cpu_times, memory, memory_limit

V2 = "0::/user.slice/mine\n"
V1 = "9:cpu,cpuacct:/docker/mine\n4:memory:/docker/mine\n0::/\n"


@pytest.fixture
def groups(tmp_path):
    """Writes files of control groups; gives the folder and the process's list of groups."""

    def write(mine, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "cgroup").write_text(mine)
        return tmp_path, tmp_path / "cgroup"

    return write


def test_the_tightest_limit_of_the_groups_around_counts(groups):
    files = {
        "user.slice/mine/memory.max": "max\n",
        "user.slice/memory.max": "2147483648\n",
        "memory.max": "8589934592\n",
        "user.slice/mine/cpu.max": "150000 100000\n",
        "user.slice/cpu.max": "max 100000\n",
    }
    where = groups(V2, files)
    assert memory_limit(*where) == 2**31
    assert cpu_quota(*where) == 1.5


def test_older_control_groups_are_read_too(groups):
    files = {
        "memory/docker/mine/memory.limit_in_bytes": "1073741824\n",
        "cpu/cpu.cfs_quota_us": "200000\n",  # in a container only the root of the tree is there
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    where = groups(V1, files)
    assert memory_limit(*where) == 2**30
    assert cpu_quota(*where) == 2


@pytest.mark.parametrize("mine", [V2, V1, "", "no such line\n"])
def test_without_a_limit_there_is_none(groups, mine):
    files = {"cpu/docker/mine/cpu.cfs_quota_us": "-1\n", "cpu/docker/mine/cpu.cfs_period_us": "100000\n"}
    where = groups(mine, files)
    assert memory_limit(*where) is None
    assert cpu_quota(*where) is None
    assert memory_limit(where[0], where[0] / "nowhere") is None


def test_memory_of_this_machine():
    total, available = memory()
    assert 0 < available <= total
    assert total == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the PATH that prints this, and ends so."""

    def put(text, code=0):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


OLD = "| NVIDIA-SMI 470.57.02    Driver Version: 470.57.02    CUDA Version: 11.4     |"


def test_versions_of_driver_and_cuda_are_in_its_heading(program):
    program(OLD)
    assert ask_smi(["V100"]) == Smi(True, ["V100"], "470.57.02", "11.4", "")


def test_what_it_complains_of_is_told(program):
    program("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMore.", 9)
    assert ask_smi([]) == Smi(
        True, [], error="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    )


def test_a_heading_without_gpus_is_told(program):
    program("No devices were found")
    assert ask_smi([]).error == "No devices were found"


def test_one_that_cannot_be_started_is_told(program, monkeypatch):
    program(OLD)

    def refuse(*words, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert "Permission denied" in ask_smi([]).error


def test_none_on_the_path_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_smi([]) == Smi()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cpu_time_of_other_processes(monkeypatch):
    with subprocess.Popen(
        [sys.executable, "-c", "print(sum(range(10**7)), flush=True); input()"], stdin=-1, stdout=-1
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = cpu_times()
        child.communicate(b"\n")
    pids = dict(found.keys())
    assert "python" in pids[child.pid]
    assert found[child.pid, pids[child.pid]] > 0
    assert os.getpid() not in pids
    assert not any(name.startswith("kworker") for name in pids.values())
    monkeypatch.setattr(machine, "KTHREADD", os.getpid())
    assert child.pid not in {pid for pid, _ in cpu_times()}
