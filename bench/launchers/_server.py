"""What the server of workers does at its end; imported by it alone.

It ends when the process that planned has ended, however that came about, and takes the workers and all that they have
started with it.
"""

import atexit
import contextlib
import os
from pathlib import Path

from bench.launchers import _lives


def children() -> list[int]:
    """Ids of this process's children, where the system has ``/proc``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            # The name may hold anything, parentheses too.
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _end_children() -> None:
    for pid in children():
        _lives.end(pid)


atexit.register(_end_children)
