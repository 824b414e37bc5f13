"""Want of memory: how many processes the kernel has killed for it, and the errors that say it in other words."""

from pathlib import Path

WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine",
    "bad_alloc",
)
"""How torch's CPU allocator, the CUDA driver, cuBLAS, cuDNN and C++ say it in a bare RuntimeError."""

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


def said(error: BaseException | None) -> str:
    """The message of an error that is out of memory by another name, or that was raised because of one; or ""."""
    while error is not None:
        named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
        if named or any(words in str(error) for words in WORDS):
            return str(error).partition("\n")[0] or "out of memory"
        error = error.__cause__ or error.__context__
    return ""


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
