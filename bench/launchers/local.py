"""Cells as processes on this machine, forked from a server that has torch and timm loaded."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from bench.launchers.contract import Event, Finished, Job, Progress, Settings, Started

CATALOGUE = {"local": {"doc": "processes on this machine; cells that may share it run one a core"}}

_POLL_S = 0.2


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    connection: Connection
    started: str
    clock: float


def launch(jobs: Sequence[Job], settings: Settings) -> Iterator[Event]:
    """Run jobs that need the machine to themselves first, one by one, then the others side by side.

    On a CPU a shared job gets one thread and there are as many at a time as cores: two one-thread trainings side by
    side are faster than two one after the other with two threads each. On another device jobs run one by one.
    """
    context = multiprocessing.get_context("forkserver")
    # "__main__" too, or each worker would import the command line again.
    context.set_forkserver_preload(["__main__", "bench.worker"])
    # The server and its workers inherit the mask: Ctrl-C is for this process, which ends them in order.
    # (Starting the resource tracker unblocks SIGINT, so it has to be there before.)
    resource_tracker.ensure_running()
    with _interrupt_later():
        forkserver.ensure_running()
    alone = deque(job for job in jobs if job.measure.exclusive)
    shared = deque(job for job in jobs if not job.measure.exclusive)
    cores = len(os.sched_getaffinity(0))
    running: list[_Running] = []
    try:
        for queue, slots in ((alone, 1), (shared, cores)):
            while queue or running:
                while queue and len(running) < (slots if queue[0].cell.device == "cpu" else 1):
                    job = queue.popleft()
                    threads = job.cell.threads if job.measure.exclusive else max(1, cores // slots)
                    running.append(_start(context, job, settings, threads))
                    yield Started(job)
                for one in tuple(running):
                    for event in _events(one, settings.timeout_s):
                        if isinstance(event, Finished):
                            running.remove(one)
                        yield event
                if running:
                    wait([one.connection for one in running] + [one.process.sentinel for one in running], _POLL_S)
    finally:
        for one in running:
            one.process.kill()
        for one in running:
            one.process.join()


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold SIGINT back; one that came meanwhile takes effect at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(context: ForkServerContext, job: Job, settings: Settings, threads: int) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, settings, threads, theirs), daemon=True)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    # An interrupt half-way through the handshake would leave the server with a broken connection to complain about.
    with _interrupt_later():
        process.start()
    theirs.close()
    return _Running(job, process, ours, started, clock)


def _work(job: Job, settings: Settings, threads: int, connection: Connection) -> None:
    # Imported in the worker: the process that plans stays free of torch.
    from bench.worker import work  # noqa: PLC0415

    work(job, settings, threads, connection)


def _events(one: _Running, timeout_s: float) -> Iterator[Event]:
    """What has come from a worker since the last look, without waiting."""
    ended = one.process.exitcode is not None  # before reading, so that nothing sent before the end is missed
    try:
        while one.connection.poll():
            kind, content = one.connection.recv()
            if kind == "progress":
                yield Progress(one.job, *content)
            else:
                one.process.join()
                yield Finished(one.job, started=one.started, wall_s=time.monotonic() - one.clock, **content)
                return
    except EOFError:
        one.process.join()
        ended = True
    wall_s = time.monotonic() - one.clock
    if ended:
        status, reason = _death(one.process.exitcode)
        yield Finished(one.job, status, reason, one.started, wall_s)
    elif wall_s > timeout_s:
        one.process.kill()
        one.process.join()
        reason = f"not done after {timeout_s:g} s; give it more with --timeout"
        yield Finished(one.job, "timeout", reason, one.started, wall_s)


def _death(code: int | None) -> tuple[str, str]:
    if code == -signal.SIGKILL:
        return "oom", "its process was killed (SIGKILL), which is what Linux does when memory runs out"
    if code is not None and code < 0:
        return "error", f"its process died of {signal.Signals(-code).name}"
    return "error", f"its process ended with exit code {code} and no result"
