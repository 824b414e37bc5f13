"""A process that answers questions, and may die or hang without taking this one with it."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext, SpawnProcess

ENDS_S = 2.0
"""That the process may take to end when there are no more questions."""


class Unanswered(UserError):
    """There was no answer, but an error or nothing.

    Args:
        reason: what there was instead.
        question: with its arguments.
    """

    def __init__(self, reason: str, question: tuple[str, ...]) -> None:
        super().__init__(reason)
        self.question = question


class Aside:
    """The process; a new one where the last one died.

    Args:
        respond: what answers there, called with a question and its arguments.
        patience_s: seconds that an answer may take.
    """

    def __init__(self, respond: Callable[..., Any], patience_s: float) -> None:
        self.respond = respond
        self.patience_s = patience_s
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._known: dict[tuple[str, ...], tuple[bool, Any]] = {}

    def ask(self, question: str, *arguments: str) -> Any:
        """The answer, which is asked for once.

        Raises:
            Unanswered: there is none, and why.
        """
        key = (question, *arguments)
        if key not in self._known:
            self._known[key] = self._asked(key)
        fine, said = self._known[key]
        if not fine:
            raise Unanswered(said, key)
        return said

    def _asked(self, key: tuple[str, ...]) -> tuple[bool, Any]:
        if self._process is None or self._connection is None or not self._process.is_alive():
            context: SpawnContext = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.respond, theirs), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._connection.send(key)
            if self._connection.poll(self.patience_s):
                return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return False, f"the process that was asked {_ended(self._process.exitcode)}"
        self.close()
        return False, f"there was no answer within {self.patience_s:g} s"

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()  # there are no more questions: it ends by itself, unless it hangs
            self._process.join(ENDS_S)
            self._process.kill()
            self._process.join()
            self._process = None


def in_a_line(error: BaseException) -> str:
    """An error in a line: its type and the first line of it, with the next one where that only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[: 2 if lines and lines[0].endswith(":") else 1]
    return " ".join([f"{type(error).__name__}:", *said]) if said else type(error).__name__


def _ended(code: int | None) -> str:
    return f"died of {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"


def _serve(respond: Callable[..., Any], connection: Connection) -> None:
    """The other side of `Aside`: one answer a question, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends this process
    with Path(os.devnull).open("w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)  # libraries write where they like; it must not tear the report
    with contextlib.suppress(EOFError):
        while True:
            question = connection.recv()
            try:
                connection.send((True, respond(*question)))
            except Exception as error:  # noqa: BLE001 - it is the answer
                connection.send((False, in_a_line(error)))
