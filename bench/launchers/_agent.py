"""What stands between a cluster and the clean process of a node (`bench.launchers._node`): starts, asks and reads it.

Knows no cluster but for what Ray sets in the environment of its workers, which is taken out again.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bench.catalogue import ROOT
from bench.launchers._node import Batch
from bench.launchers.contract import Job, Settings
from bench.plan.variables import speed

ENDS_S = 10.0
"""That the process may take to end when it is asked nothing more."""
_RAYS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "PYTHONBREAKPOINT")
"""Variables that Ray sets in its workers. They, and whatever else changes speed, are to be as a node was started."""

_ALLOCATOR = ("LD_PRELOAD", "MALLOC_CONF")


class Ended(Exception):
    """The node's process has ended before its answer.

    Args:
        reason: how, and what it wrote last.
    """


class Agent:
    """The process of a node."""

    def __init__(self) -> None:
        self._log = TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from bench.launchers._node import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_clean(),
        )

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of a function of `bench.launchers._node`.

        Raises:
            Ended: there is none.
        """
        self._send(name, arguments)
        return self._next()

    def run(self, jobs: Sequence[Job], settings: Settings, results: Path, cwd: Path) -> Iterator[Batch]:
        """As `bench.launchers._node.launch`.

        Raises:
            Ended: the process has ended before the jobs.
        """
        self._send("launch", (jobs, settings, results, cwd))
        while (batch := self._next()) is not None:
            yield batch

    def close(self) -> None:
        """End the process, and what it runs."""
        assert self._process.stdin is not None, "a pipe"
        with suppress(OSError):
            self._process.stdin.close()
        self._wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _send(self, name: str, arguments: tuple[Any, ...]) -> None:
        assert self._process.stdin is not None, "a pipe"
        try:
            pickle.dump((name, arguments), self._process.stdin)
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _next(self) -> Any:
        assert self._process.stdout is not None, "a pipe"
        try:
            return pickle.load(self._process.stdout)  # noqa: S301 - of the process that was started here
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error

    def _wait(self) -> int:
        try:
            return self._process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _ended(self) -> Ended:
        code = self._wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()[-3:]
        return Ended(" | ".join([f"its process ended with exit code {code}", *lines]))


def ask(name: str, *arguments: Any) -> Any:
    """As `Agent.ask`, of a process for this question alone."""
    agent = Agent()
    try:
        return agent.ask(name, *arguments)
    finally:
        agent.close()


def _clean() -> dict[str, str]:
    """The environment of this process, with Ray's variables as they were for the process that started it."""
    found = dict(os.environ)
    if raylet := found.get("RAY_RAYLET_PID"):
        started = _started_with(raylet)
        if "RAY_LD_PRELOAD_ON_WORKERS" in started:  # Ray's own server runs with another allocator
            started = {name: text for name, text in started.items() if name not in _ALLOCATOR}
        names = {*_RAYS, *speed(found), *speed(started)}
        found = {name: text for name, text in found.items() if name not in names}
        found |= {name: started[name] for name in names if name in started}
    paths = [str(ROOT), *filter(None, [found.get("PYTHONPATH")])]
    return {**found, "PYTHONPATH": os.pathsep.join(paths)}


def _started_with(pid: str) -> dict[str, str]:
    """The variables that a process was started with; none where that cannot be known."""
    try:
        text = Path(f"/proc/{int(pid)}/environ").read_bytes().decode(errors="surrogateescape")
    except (OSError, ValueError):
        return {}
    return {name: value for name, equals, value in (line.partition("=") for line in text.split("\0")) if equals}
