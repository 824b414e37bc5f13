"""What came of a training, kept for the cells that share it: whichever comes first trains, the others take its weights.

Runtimes and quantisations of one model are so compared on the very same weights, and a training costs its time once.
"""

import fcntl
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.model import kept
from bench.plan import models
from bench.plan.case import Case
from bench.plan.cell import SILENT
from bench.plan.measure import Context, Outcome
from heads.contract import Model

_LOOK_S = 0.2


@dataclass(frozen=True)
class Training:
    """A trained model in float32.

    found: what a record says of the training alone. digest: of the weights; "": they are kept for nobody.
    """

    net: Model
    found: Outcome
    digest: str = ""


def plain(case: Case) -> Case:
    """The case of the training: what executes the model afterwards makes no other."""
    return replace(case, cell=replace(case.cell, **SILENT))


def once(train: Callable[[], Training], context: Context) -> Training:
    """What came of the training of a case, which waits while another process is at it.

    Args:
        train: does it, where nobody has.
        context: ``shared`` is the file that says what came of it; None: it is trained for this cell alone.
    """
    if context.shared is None:
        return train()
    with suppress(OSError):  # what cannot be written is said below, after the training
        context.shared.parent.mkdir(parents=True, exist_ok=True)
    with _alone(context.shared.with_suffix(".lock"), lambda: context.report("waiting for its training", 0, 1)):
        return _taken(context.shared, context) or _handed_on(train(), context.shared, context)


def _taken(file: Path, context: Context) -> Training | None:
    """What another has trained; None: nobody has, or it cannot be used."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        path = file.parent / f"{said['model']}{models.ENDING}"
        net = kept.of(models.opened(path))
        for one in (file, path):
            os.utime(one)
        return Training(net, Outcome(said["values"], said["samples"]), said["model"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, UserError) as error:
        context.say(f"what is kept of a training in {file} cannot be used ({error}); it is trained again")
        return None


def _handed_on(made: Training, file: Path, context: Context) -> Training:
    """Keep it for the others; a disk that is full costs their time and not this result."""
    try:
        digest = kept.keep(made.net, plain(context.case), file.parent)
        _write(file, json.dumps({"model": digest, **asdict(made.found)}).encode())
    except OSError as error:
        context.say(
            f"trained weights cannot be kept in {file.parent} ({error.strerror or error}); other runtimes and "
            "quantisations of them train again"
        )
        return made
    return replace(made, digest=digest)


def seen(made: Training, context: Context) -> dict[str, NDArray[Any]] | None:
    """What was kept of every image by `see`; None where nothing was, or it cannot be read."""
    if context.shared is None or not made.digest:
        return None
    with suppress(OSError, ValueError), np.load(_of_images(made, context.shared)) as arrays:
        return dict(arrays)
    return None


def see(made: Training, arrays: Mapping[str, NDArray[Any]], context: Context) -> None:
    """Keep what float32 in torch finds in every image: what other ways to run these weights are compared with."""
    if context.shared is None or not made.digest:
        return
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType] - none is named allow_pickle
    with suppress(OSError):  # then it is evaluated again
        _write(_of_images(made, context.shared), content.getvalue())


def _of_images(made: Training, file: Path) -> Path:
    return file.with_name(f"{made.digest}.npz")


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(content)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Within it no other process of this machine is; without locks, or a file for one, all train for themselves."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            os.utime(path)
        with suppress(OSError):  # a file system without locks
            while not _locked(file):
                waiting()
                time.sleep(_LOOK_S)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file, too
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
