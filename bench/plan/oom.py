"""How many processes the kernel has killed for want of memory: what tells its SIGKILL from anybody else's."""

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def kills() -> int | None:
    """Of this process's control group, or of the machine where that is not counted; None: nobody counts them."""
    for path in (*_of_group(), _PROC / "vmstat"):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        for name, _, count in (line.partition(" ") for line in lines):
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return None


def _of_group() -> list[Path]:
    """Files that may count them: of the second version of control groups, and of the first.

    Within a container the group's path may be that of the host, and its files lie at the root.
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for _, names, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not names:
            found += [_ROOT / path.strip("/") / "memory.events", _ROOT / "memory.events"]
        elif "memory" in names.split(","):
            folder = _ROOT / "memory"
            found += [folder / path.strip("/") / "memory.oom_control", folder / "memory.oom_control"]
    return found
