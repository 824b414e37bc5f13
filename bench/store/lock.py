"""That one process at a time writes to a folder of results, on whichever machine it runs.

Two things say so. ``flock`` on ``<folder>/.lock`` is the first: on a disk of this machine it is certain, and it ends
with the process. Over NFS it is, too, where the server keeps locks (Linux since 2.6.12 makes one over the whole file of
it; Lustre with ``-o flock`` likewise), but a mount may leave locks to each machine (``local_lock=flock``, ``nolock``,
``localflock``, many FUSE file systems), and nothing tells. So the file also says who writes: the kernel it runs on,
host, process, and a number that grows every `BEAT_S` seconds. Whoever gets the lock and finds there a run of another
kernel that has not said it ended, watches the number for `WATCH_S` seconds: where it grows, the lock is worth nothing
and the folder is refused; where it stands, that machine was lost (or this one was started again), and the folder is
free. What is compared are numbers and never the clocks of two machines.

Where locks are worth nothing, two runs that begin in one moment may both find nobody. The later one's name stays in the
file, so the other finds out within `BEAT_S` and ends: `Lock.held` raises before the next record is written.

Folders of several machines are better kept apart and joined by ``densebench merge``.
"""

import fcntl
import json
import os
import platform
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UserError, remark

NAME = ".lock"
BEAT_S = 5.0
"""Seconds between two signs of life."""
WATCH_S = 20.0
"""Without one, after which a run on another machine counts as lost."""
_LOOK_S = 0.2
_SIZE = 512
"""Bytes of the file while somebody writes, so that it is written at once; empty afterwards."""


class Lock:
    """The right to write to a folder, from its making until `close`.

    Args:
        folder: that is there.

    Raises:
        OSError: the folder cannot be written to.
        UserError: another run holds it; says where it runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._ended = threading.Event()
        self._lost: dict[str, Any] = {}
        self._me = {
            "boot": boot(),
            "host": platform.node(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "life": os.urandom(4).hex(),
        }
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def held(self) -> None:
        """See that the folder is still this run's.

        Raises:
            UserError: another run has taken it.
        """
        if self._lost:
            raise UserError(
                f"{_who(self._lost)} writes to {self.folder}, too, and on this file system neither can lock the other "
                "out; this run ends, what it has written is kept. Let each machine write to a folder of its own "
                "(--results) and join them by `densebench merge`"
            )

    def close(self) -> None:
        """Give it up, and say so."""
        self._ended.set()
        self._thread.join(BEAT_S)
        with suppress(OSError):
            if not self._lost:
                os.ftruncate(self._file, 0)
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        if not self._thread.is_alive():  # a server is away: it would write to whatever has this number by then
            os.close(self._file)

    def _take(self) -> None:
        certain = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise self._refused(self._read()) from error
        except OSError as error:
            certain = False  # no locks at all (ENOLCK, EOPNOTSUPP): what the file says is all that is known
            remark(f"{self.folder} is on a file system without locks ({error.strerror}); runs watch each other instead")
        found = self._read()
        if found and not (certain and found.get("boot") == self._me["boot"]):
            self._watch(found)
        self._write(0)

    def _watch(self, found: dict[str, Any]) -> None:
        """Wait for a sign of life of somebody on another machine.

        Raises:
            UserError: there was one.
        """
        remark(f"{_who(found)} has not said that it ended; waiting {WATCH_S:g} s for a sign of it")
        until = time.monotonic() + WATCH_S
        while time.monotonic() < until:
            time.sleep(_LOOK_S)
            now = self._read()
            if not now:
                return
            if now != found:
                raise self._refused(now)

    def _refused(self, other: dict[str, Any]) -> UserError:
        return UserError(f"{_who(other)} is writing to {self.folder}; wait for it, or use --results")

    def _live(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            beat += 1
            with suppress(OSError):  # a server that is away comes back
                now = self._read()
                if now and now.get("life") != self._me["life"]:
                    self._lost = now
                    return
                self._write(beat)

    def _read(self) -> dict[str, Any]:
        """What the file says, nothing where nobody writes; opened anew, for which NFS asks the server."""
        text = self.path.read_bytes()
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"torn": text.hex()}

    def _write(self, beat: int) -> None:
        os.pwrite(self._file, json.dumps({**self._me, "beat": beat}).encode().ljust(_SIZE), 0)
        os.fsync(self._file)


def _who(other: dict[str, Any]) -> str:
    """A run, in words."""
    if not {"host", "pid", "since"} <= other.keys():
        return "another run"
    return f"another run (on {other['host']}, process {other['pid']}, since {other['since']})"


@cache
def boot() -> str:
    """What tells one running kernel from all others, containers on it apart; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
