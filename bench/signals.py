"""How a command is ended from outside: by Ctrl-C, by a scheduler (SIGTERM), by a terminal that goes away (SIGHUP)."""

import contextlib
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = 5.0
"""Within so many seconds another SIGTERM or SIGHUP is the same wish: a session that ends sends several."""
_SHOW_CURSOR = b"\x1b[?25h"


class Ended(BaseException):
    """A signal ends the command.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(in_words(number))
        self.number = number


def in_words(number: int) -> str:
    """What has happened."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def code(number: int) -> int:
    """The exit code of a command that a signal has ended, as shells have it."""
    return 128 + number


class Ears:
    """What hears the signals: the first raises `Ended`, so that what is open is closed; a second ends at once."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what Python calls
        """Take a signal."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
            self._leave_dead_terminals()
            raise Ended(number)
        if number == signal.SIGINT or now - self.first > SAME_S:
            self._at_once(number)

    def _leave_dead_terminals(self) -> None:
        """What is still to be said must not fail where nobody can read it."""
        for stream in self.terminals:
            if not os.isatty(stream):
                with Path(os.devnull).open("w") as nowhere:
                    os.dup2(nowhere.fileno(), stream)

    def _at_once(self, number: int) -> NoReturn:
        for stream in self.terminals:
            with contextlib.suppress(OSError):
                os.write(stream, _SHOW_CURSOR)
        os._exit(code(number))  # workers end with their server, and that with this process


def listen() -> None:
    """Hear them, but for those that are ignored from the start (``nohup``).

    The first process of a container is ended by no signal that it does not hear.
    """
    ears = Ears()
    for number in HEARD:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ears)
