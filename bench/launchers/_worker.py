"""A measurement's process as the launcher sees it: started, listened to, granted turns, and found dead."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess, SpawnProcess

from bench.launchers import _lives
from bench.launchers.contract import Event, Finished, Job, Progress, Said, Settings
from bench.plan import oom
from bench.plan.cards import VISIBLE, Card
from bench.plan.measure import CARD, Precision
from bench.plan.variables import SPIN

POLL_S = 0.2
ENDS_S = 5.0
"""That a killed process may take to end; one that waits for a broken disk or device may take for ever."""


@dataclass
class Worker:
    """One job's process.

    active_s: seconds that it has had the machine, waiting for turns apart, up to ``since``.
    waiting: for its next turn. turns: that it has had. free: share of its device's memory that was free when it had
    loaded its model and given back what it does not hold between turns; heard: when it said so. need: share that it has
    been seen to need beyond what it held then. cpu_s: CPU time that it has used. kills: `bench.plan.oom.kills` when it
    started. card: that it computes on; None: not one of several. trained: steps of training that it has reported.
    """

    job: Job
    process: ForkServerProcess | SpawnProcess
    connection: Connection
    started: str
    since: float
    active_s: float = 0.0
    waiting: bool = False
    turns: int = 0
    free: float = 1.0
    heard: float = 0.0
    need: float = 0.0
    cpu_s: float = 0.0
    kills: int | None = None
    card: Card | None = None
    trained: int = 0

    def wall_s(self) -> float:
        """Seconds that it has had the machine."""
        return self.active_s + (0.0 if self.waiting else time.monotonic() - self.since)

    def grant(self, index: int, workers: int, cpu_s: float = 0.0) -> None:
        """Let it have the turn it waits for; see `bench.plan.measure.Turn`."""
        self.waiting, self.since, self.turns = False, time.monotonic(), self.turns + 1
        with contextlib.suppress(OSError):  # it died while it waited; whoever reads from it finds out
            self.connection.send((index, workers, cpu_s))

    def end(self) -> None:
        """Kill it, and what it has started."""
        self.kill()
        self.process.join(ENDS_S)

    def kill(self) -> None:
        """Without waiting for it."""
        _lives.end(self.process.pid)
        self.process.kill()  # it may not have a session of its own yet


class Workers:
    """All processes of a launch.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.running: list[Worker] = []
        self.cpu_s = 0.0  # of all workers that take turns, ended ones too
        self.deaths = Deaths()
        self.context = multiprocessing.get_context("spawn") if _spawned() else multiprocessing.get_context("forkserver")
        # "__main__" too, or each worker would import the command line again.
        self.context.set_forkserver_preload(["bench.launchers._server", "__main__", "bench.launchers.worker"])
        # The server and its workers inherit the mask: signals are for this process, which ends them in order.
        # (Starting the resource tracker unblocks SIGINT, so it has to be there before.)
        _spin_less(os.environ)  # which the server inherits
        # A plug-in that asks for CUDA at its import must not initialise it in the server: forks could not use it then.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        resource_tracker.ensure_running()
        if not _spawned():
            with _interrupt_later():
                forkserver.ensure_running()

    @property
    def jobs(self) -> list[Job]:
        """What runs now."""
        return [one.job for one in self.running]

    def start(
        self, job: Job, threads: int, card: Card | None = None, visible: str = "", precision: Precision | None = None
    ) -> Worker:
        """A process for a job.

        Args:
            job: what to measure.
            threads: of the CPU.
            card: that it computes on, where there is one to name.
            visible: UUIDs of the cards that it sees, by commas; "": that card alone.
            precision: instead of the settings'.
        """
        ours, theirs = self.context.Pipe()
        settings = self.settings if precision is None else replace(self.settings, precision=precision)
        shown = visible or ("" if card is None else card.uuid)
        process = self.context.Process(
            target=_in_session, args=(shown, _work, job, settings, threads, theirs), daemon=True
        )
        # An interrupt half-way through the handshake would leave the server with a broken connection to complain about.
        with _interrupt_later():
            process.start()
        # By now the server has forked it. The first waits until the server has torch loaded, which is none of its time.
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        theirs.close()
        self.running.append(Worker(job, process, ours, started, clock, kills=oom.kills(), card=card))
        return self.running[-1]

    def events(self, worker: Worker) -> Iterator[Event]:
        """What has come from a worker since the last look, without waiting; an end takes it off the running ones."""
        before = worker.cpu_s
        for event in _events(worker, self.settings.timeout_s, self.deaths):
            if isinstance(event, Finished):
                _lives.end(worker.process.pid)  # what it has left behind
                self.running.remove(worker)
                if worker.card is not None and event.values:
                    event = replace(event, values={**event.values, CARD: worker.card.short()})  # noqa: PLW2901
            yield event
        self.cpu_s += worker.cpu_s - before

    def until_turn(self, worker: Worker) -> Iterator[Event | None]:
        """Events of a worker that has its card, until it waits for a turn or has ended; None: nothing has come yet."""
        while not worker.waiting and worker in self.running:
            yield from self.events(worker)
            if not worker.waiting and worker in self.running:
                yield None

    def together(self, lanes: Iterable[Iterator[Event | None]]) -> Iterator[Event]:
        """Events of several generators, each of which goes on as soon as there is something for it.

        A lane gives None where it waits for one of its workers.
        """
        going = list(lanes)
        while going:
            for lane in tuple(going):
                for event in lane:
                    if event is None:
                        break
                    yield event
                else:
                    going.remove(lane)
            if going:
                self.wait()

    def drop(self, worker: Worker) -> None:
        """End a worker whose answer nobody waits for."""
        worker.end()
        self.running.remove(worker)

    def wait(self) -> None:
        """Until there is something to hear from any that does not wait for its turn, or a moment has passed."""
        busy = [one for one in self.running if not one.waiting]
        wait([one.connection for one in busy] + [one.process.sentinel for one in busy], POLL_S)

    def end(self) -> None:
        """Kill what still runs."""
        for one in self.running:
            one.kill()
        until = time.monotonic() + ENDS_S
        for one in self.running:
            one.process.join(max(0.0, until - time.monotonic()))


def _spawned(system: str = sys.platform) -> bool:
    """Whether workers are started anew: Apple's frameworks, of which ``mps`` is made, do not work in forked ones."""
    return system == "darwin"


def _spin_less(environment: MutableMapping[str, str]) -> None:
    """Set `bench.plan.variables.SPIN`, unless the user has said how threads are to wait."""
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in SPIN.items():
            environment.setdefault(name, value)


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold back what ends this process; what came meanwhile takes effect at the end.

    The mask is what children inherit. It does not do for this process: a signal then comes by another thread, which
    does not mask it, and Python lets the main one know.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _lives.LATER)
    heard = {}
    if threading.current_thread() is threading.main_thread():
        heard = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _lives.LATER}
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def _in_session(visible: str, work: Callable[..., None], *arguments: object) -> None:
    _lives.begin()
    if visible:  # torch is loaded by now, and CUDA has not been asked yet
        os.environ[VISIBLE] = visible
    work(*arguments)


def _work(job: Job, settings: Settings, threads: int, connection: Connection) -> None:
    # Imported in the worker: the process that plans stays free of torch.
    from bench.launchers.worker import work  # noqa: PLC0415

    work(job, settings, threads, connection)


def _events(one: Worker, timeout_s: float, deaths: "Deaths") -> Iterator[Event]:
    """What has come from a worker since the last look, without waiting."""
    ended = one.process.exitcode is not None  # before reading, so that nothing sent before the end is missed
    try:
        while one.connection.poll():
            kind, content = one.connection.recv()
            if kind == "progress":
                step = Progress(one.job, *content)
                one.trained = step.done if step.stage == "training" else one.trained
                yield step
            elif kind == "said":
                yield Said(one.job, content)
            elif kind == "turn":
                one.active_s, one.waiting = one.wall_s(), True
                one.free, one.need, one.cpu_s = content
                one.heard = time.monotonic()
                return
            else:
                one.process.join()
                yield Finished(one.job, started=one.started, wall_s=one.wall_s(), **content)
                return
    except (EOFError, ConnectionResetError):
        one.process.join()
        ended = True
    if ended:
        if one.process.exitcode in (-signal.SIGTERM, -signal.SIGHUP):
            # Schedulers send it to all processes at once: this one then hears of it now, and makes no record of it.
            time.sleep(POLL_S)
        status, reason = deaths.explain(one.process.exitcode, one.kills)
        yield Finished(one.job, status, reason, one.started, one.wall_s())
    elif one.wall_s() > timeout_s:
        one.end()
        reason = f"not done after {timeout_s:g} s; give it more with --timeout"
        yield Finished(one.job, "timeout", reason, one.started, one.wall_s())


class Deaths:
    """Why workers died. A kill for want of memory explains one death; others that died so were killed by somebody."""

    def __init__(self) -> None:
        self.explained = 0

    def explain(self, code: int | None, kills: int | None) -> tuple[str, str]:
        """Status and reason of a process that has ended without a result.

        Args:
            code: its exit code; negative: the signal that killed it.
            kills: see `Worker`.
        """
        if code == -signal.SIGKILL:
            return self._killed(kills)
        if code is not None and code < 0:
            return "error", f"its process died of {signal.Signals(-code).name}"
        return "error", f"its process ended with exit code {code} and no result"

    def _killed(self, before: int | None) -> tuple[str, str]:
        now = oom.kills()
        if now is None or before is None:
            counted = "whether for want of memory is not known, for this system does not count that"
        elif now > (known := max(before, self.explained)):
            self.explained = known + 1
            return "oom", "the kernel killed its process for want of memory (SIGKILL, and its count of those went up)"
        else:
            counted = "not for want of memory, by the kernel's count"
        return "error", f"its process was killed by signal 9 (SIGKILL), {counted}"
