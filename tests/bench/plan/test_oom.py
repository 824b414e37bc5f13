"""Where the kernel's count of what it killed for want of memory is read."""

import pytest

from bench.plan import oom


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(oom, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(oom, "_PROC", tmp_path / "proc")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/a/b\n", "cgroup/a/b/memory.events"),
        ("0::/a/b\n", "cgroup/memory.events"),
        ("9:name=systemd:/\n4:cpu,memory:/a\n0::/\n", "cgroup/memory/a/memory.oom_control"),
    ],
    ids=["second version", "in a container", "first version"],
)
def test_the_groups_own_count_goes_before_the_machines(system, groups, file):
    system("proc/self/cgroup", groups)
    system("proc/vmstat", "pgfault 9\noom_kill 7\n")
    assert oom.kills() == 7
    system(file, "oom 5\noom_kill 2\n")
    assert oom.kills() == 2


def test_a_system_that_does_not_count(system):
    assert oom.kills() is None
    system("proc/vmstat", "pgfault 9\n")
    assert oom.kills() is None
