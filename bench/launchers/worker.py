"""The torch side of a measurement: runs in a process of its own, forked from one that has the libraries loaded."""

import contextlib
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tqdm import tqdm

from backbones.contract import Unsupported
from bench import catalogue
from bench.errors import UserError
from bench.launchers.contract import Job, Settings
from bench.plan import machine, oom
from bench.plan.case import resolve
from bench.plan.measure import CANNOT, Context, Invalid, Outcome, Turn
from bench.store import states


def preload() -> None:
    """Import every plug-in once, so that forked workers find them loaded. A broken one fails where it is used."""
    for kind in ("backbones", "heads", "data", "measures"):
        for entry in catalogue.entries(kind).values():
            with contextlib.suppress(Exception):
                entry.load()
    # Exporters show bars of it. Their usual lock is a semaphore of the system, which a killed worker leaves behind.
    tqdm.set_lock(threading.RLock())


def work(job: Job, settings: Settings, threads: int, connection: Connection) -> None:
    """Measure and send the fields of a `Finished` event; progress on the way."""
    with tempfile.TemporaryFile() as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)  # libraries write where they like; it must not tear the progress display
        answer = _measure(job, settings, threads, connection, log)
    with contextlib.suppress(BrokenPipeError):
        connection.send(("finished", answer))
    connection.close()
    # Skip the interpreter's tear-down: with torch loaded it takes tenths of a second and nothing is left to save.
    os._exit(0)


def _context(job: Job, settings: Settings, threads: int, connection: Connection) -> Context:
    """What the measure may use; whatever it reports goes through the connection.

    Raises:
        UserError: see `bench.plan.case.resolve`.
    """

    def report(stage: str, done: int, total: int, note: str = "", /) -> None:
        connection.send(("progress", (stage, done, total, note)))

    def say(text: str) -> None:
        connection.send(("said", text))

    def turns() -> Iterator[Turn]:
        free, need = _memory(job)
        while True:
            connection.send(("turn", (free, need, time.process_time())))
            yield Turn(*connection.recv())

    here = settings.environment
    return Context(
        report,
        threads,
        resolve(
            job.cell,
            cache=settings.cache,
            root=job.root,
            stated=job.recipe,
            without=job.without,
            trained=job.trained,
        ),
        settings.pictures,
        settings.images,
        turns,
        settings.precision,
        models=settings.models,
        state=states.path(settings.cache, job.training, here) if here else None,
        shared=states.weights(settings.cache, job.training, here) if here and job.shares else None,
        question=f"{job.training}\n{here}",
        say=say,
    )


def _measure(  # noqa: PLR0911 - one line a status
    job: Job, settings: Settings, threads: int, connection: Connection, log: BinaryIO
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    try:
        context = _context(job, settings, threads, connection)
        module = import_module(catalogue.get("measures", job.measure.name).module)
        outcome = module.measure(job.cell, context)
    except Unsupported as error:
        failed = _failed("unsupported", str(error))
        return {**failed, "values": {CANNOT: ",".join(error.axes)}} if error.axes else failed
    except Invalid as error:
        failed = _failed("invalid", str(error))
        return failed if error.outcome is None else {**failed, **_found(error.outcome)}
    except UserError as error:
        return _failed("error", str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _failed("oom", str(error).partition("\n")[0] or "out of memory")
    except Exception as error:  # noqa: BLE001 - one bad cell never costs the others; the reason goes into its record
        if out := oom.said(error):
            return _failed("oom", out)
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(catalogue.ROOT)
        ]
        where = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        return _failed("error", f"{type(error).__name__}: {error}{where}{_tail(log)}")
    return {"status": "ok", "reason": "", **_found(outcome)}


def _found(outcome: Outcome) -> dict[str, Any]:
    return {"values": dict(outcome.values), "samples": dict(outcome.samples)}


def _memory(job: Job) -> tuple[float, float]:
    """Share of the device's memory that is free, and the share that this process has been seen to need beyond it.

    What it does not hold between turns is given back before; it takes that again in its first turn, and then keeps it.
    On a CPU the free share is the launcher's to find out.
    """
    if job.cell.device == "cpu" or not torch.accelerator.is_available():
        return 1.0, _host_need() if job.cell.device == "cpu" else 0.0
    try:
        peak = torch.accelerator.max_memory_reserved(job.cell.device)
        torch.accelerator.empty_cache()
        free, total = torch.accelerator.get_memory_info(job.cell.device)
        held = torch.accelerator.memory_reserved(job.cell.device)
    except (RuntimeError, NotImplementedError):  # a device that shares the CPU's memory does not tell
        return 1.0, 0.0
    return free / total, max(0, peak - held) / total


def _host_need(status: Path = Path("/proc/self/status")) -> float:
    """The share of the machine's memory that this process has had and given back; 0 where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        peak, now = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
        return max(0, peak - now) / machine.memory()[0]
    except (OSError, ValueError, KeyError):
        return 0.0


def _failed(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def _tail(log: BinaryIO) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-3:]
    return " | " + " | ".join(lines) if lines else ""


preload()
