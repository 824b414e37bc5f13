"""What the system says of this machine, beyond what tells environments apart: limits, nvidia-smi, who is at work."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

KTHREADD = 2
"""Process of Linux that all threads of the kernel are children of."""


def cpus() -> list[int]:
    """CPUs that this process may use; all of them where the system does not tell, as macOS does not."""
    allowed = getattr(os, "sched_getaffinity", None)
    return sorted(allowed(0)) if allowed is not None else list(range(os.cpu_count() or 1))


def memory() -> tuple[int, int]:
    """Bytes that there are, and that can be had now.

    Raises:
        OSError, ValueError: the kernel does not tell.
    """
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    total, available = re.findall(r"^(?:MemTotal|MemAvailable):\s+(\d+)", text, re.MULTILINE)
    return int(total) * 1024, int(available) * 1024


def cpu_quota(groups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that control groups grant this process; None: no limit, or none that is known."""
    found = []
    for folder in _control_groups("cpu", groups, proc):
        with contextlib.suppress(OSError, ValueError):
            if (file := folder / "cpu.max").exists():
                quota, period = file.read_text(encoding="ascii").split()
            else:
                quota, period = (
                    (folder / f"cpu.cfs_{what}_us").read_text(encoding="ascii") for what in ("quota", "period")
                )
            if float(quota) > 0:  # "max", or -1: none
                found.append(float(quota) / float(period))
    return min(found, default=None)


def memory_limit(groups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that control groups grant this process; None: no limit, or none that is known."""
    found = []
    for folder in _control_groups("memory", groups, proc):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max": none
                found.append(int((folder / name).read_text(encoding="ascii")))
    return min(found, default=None)


def _control_groups(controller: str, groups: Path, proc: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, outer ones too; in a container some are hidden."""
    with contextlib.suppress(OSError, ValueError):
        for line in proc.read_text(encoding="utf-8").splitlines():
            _, names, path = line.split(":", 2)
            root = groups if not names else groups / controller
            if not names or controller in names.split(","):
                group = root / path.lstrip("/")
                yield group
                yield from (outer for outer in group.parents if outer.is_relative_to(root))


@dataclass(frozen=True)
class Smi:
    """nvidia-smi without arguments.

    here: it is on the PATH. gpus: names. driver, cuda: versions; cuda is the highest that the driver can run; empty
    where it does not say. error: what it said instead.
    """

    here: bool = False
    gpus: Sequence[str] = ()
    driver: str = ""
    cuda: str = ""
    error: str = ""


def ask_smi(gpus: Sequence[str]) -> Smi:
    """What nvidia-smi sees, beside the GPUs that it lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Smi()
    try:
        done = subprocess.run([tool], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Smi(here=True, error=str(error))
    versions = dict(re.findall(r"(Driver|CUDA) Version:\s*([\d.]+)", done.stdout))
    failed = (done.stdout + done.stderr).strip().partition("\n")[0] if done.returncode or not gpus else ""
    return Smi(True, gpus, versions.get("Driver", ""), versions.get("CUDA", ""), failed)


def cpu_times() -> dict[tuple[int, str], float]:
    """(pid, name) of every other process that can be seen, threads of the kernel apart -> seconds of CPU time."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
            start, _, rest = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            pid, _, name = start.partition(" (")
            parent, user, system = itemgetter(1, 11, 12)(rest.split())
            if int(pid) not in (KTHREADD, os.getpid()) and int(parent) != KTHREADD:
                found[int(pid), name] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found
