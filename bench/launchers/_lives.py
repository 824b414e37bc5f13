"""That no process outlives its run: a worker is a session of its own, which ends as a whole, and with the run.

Imported by the launching side and by workers.
"""

import contextlib
import ctypes
import os
import signal
from multiprocessing import forkserver

_PR_SET_PDEATHSIG = 1
LATER = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What the server of workers, who inherits the mask, is deaf to: it is for the process that plans, which ends all."""


def begin() -> None:
    """In a worker, first of all."""
    os.setsid()
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A worker holds the pipe, too, by whose end its server finds out that nobody needs it any more.
    alive = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None)
    if alive is not None:
        os.close(alive)
    # What a measure starts must be as easy to end as anywhere.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LATER - {signal.SIGINT})


def end(pid: int | None) -> None:
    """Kill a worker's session, whether the worker itself still lives or not."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
