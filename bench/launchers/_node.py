"""A node's side of a launcher that reaches several machines: what it is, whether it can take jobs, and their events.

`main` is a process of its own: pickled requests come in by stdin and pickled answers go out by stdout. What carries
them is no business of this process, and is not in it: it is as clean as that of ``densebench run``, so that what is
measured here is what the local launcher measures. It ends with whoever asks, and its workers with it.
"""

import hashlib
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, BinaryIO

from bench import catalogue
from bench.cache import cache_folder
from bench.data.contract import Task
from bench.errors import UserError
from bench.launchers.contract import Event, Finished, Job, Progress, Settings
from bench.plan import listing, models, weights
from bench.plan.environment import Environment, describe
from bench.plan.measure import IMAGES, MODEL
from bench.store import artifacts, images, pictures, states
from bench.store.lock import boot

VARIABLE = "DENSEBENCH_DATA_ROOT"
"""Environment variable of a node: folders that hold data sets there, where these lie elsewhere than where it plans."""
TOGETHER_S = 0.25
"""Progress of so many seconds goes in one answer; only its last step is of interest."""
_CODE = frozenset({".py", ".toml", ".json"})
_SCRATCH: list[str] = []
"""The folder that is written to, which goes with this process."""


@dataclass(frozen=True)
class About:
    """What a node says of itself. code: digest of densebench's own files there. boot: of the kernel that it runs on."""

    environment: Environment
    code: str
    boot: str


@dataclass(frozen=True)
class Needs:
    """What jobs need of the file system, as it is where they were planned.

    cwd: that relative paths are of. folders: (data set, task, folder, digest of its files as of `bench.plan.listing`).
    files: (path, digest of the content).
    """

    cwd: Path
    folders: tuple[tuple[str, Task, Path, str], ...] = ()
    files: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Batch:
    """Events in their order, and the files that belong to those that end a job: (folder, name, content)."""

    events: tuple[Event, ...]
    files: tuple[tuple[str, str, bytes], ...] = ()


def about() -> About:
    """This node."""
    return About(_environment(), code(), boot())


_environment = cache(describe)


@cache
def code() -> str:
    """A digest of all that decides how something is measured: records say which source was planned with."""
    found = hashlib.sha256()
    for folder in ("backbones", "bench", "heads"):
        for path in sorted((catalogue.ROOT / folder).rglob("*")):
            if path.suffix in _CODE and path.is_file():
                found.update(f"{path.relative_to(catalogue.ROOT).as_posix()}\n".encode())
                found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def needs(jobs: Iterable[Job]) -> Needs:
    """What jobs need, told where they are planned.

    Raises:
        DataError: a data set cannot be read.
    """
    folders: dict[tuple[str, Task, Path], str] = {}
    files: dict[Path, str] = {}
    for job in jobs:
        if job.root is not None and "dataset" in job.measure.fields:
            name = (job.cell.dataset.partition(":")[0], catalogue.get("heads", job.cell.head).facts["task"], job.root)
            folders[name] = folders.get(name) or listing.digest(*name, kept=cache_folder())
        start = job.cell.weights if "weights" in job.measure.fields else weights.RANDOM
        path = job.trained or (Path(start).expanduser() if start.endswith(weights.ENDINGS) else None)
        if path is not None:
            files[path.absolute() if path is job.trained else path] = models.sha256(path)
    listed = tuple((*name, digest) for name, digest in folders.items())
    return Needs(Path.cwd(), listed, tuple(files.items()))


def here(root: Path) -> Path | None:
    """Where a data set's folder lies on this node: below `VARIABLE`, or where it lies elsewhere; None: it does not."""
    parents = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    candidates = [path for parent in parents for path in (parent / root.name, parent) if path.name == root.name]
    return next((path for path in (*candidates, root) if path.is_dir()), None)


def look(wanted: Needs) -> str:
    """Why this node cannot take jobs that need this; "" where it can."""
    with suppress(OSError):
        os.chdir(wanted.cwd)
    for name, task, root, digest in wanted.folders:
        if (mine := here(root)) is None:
            return f"it has no folder {root}; put the data set there, or name the folder above it there in {VARIABLE}"
        try:
            same = listing.digest(name, task, mine, kept=cache_folder()) == digest
        except (UserError, OSError) as error:
            return str(error)
        if not same:
            return f"data set {name} in {mine} has other files than where it was planned ({root})"
    for path, digest in wanted.files:
        if not path.is_file() or models.sha256(path) != digest:
            return f"it has no file {path}, or another one; put it on a file system that the nodes share"
    return ""


def launch(jobs: Iterable[Job], settings: Settings, results: Path, cwd: Path) -> Iterator[Batch]:
    """Events of the local launcher for jobs that were planned elsewhere.

    Args:
        jobs: with paths as they are where they were planned.
        settings: likewise; files are written to a folder of this node, and it has a cache of its own.
        results: where kept models are looked for, if it is here.
        cwd: that relative paths are of.
    """
    with suppress(OSError):
        os.chdir(cwd)
    with TemporaryDirectory(prefix="densebench-") as scratch:
        _SCRATCH[:] = [scratch]
        folder = Path(scratch) / "here"
        _beside(results, Path(scratch))
        cached = cache_folder()
        states.prune(cached)
        artifacts.prune(cached)
        mine = replace(
            settings,
            cache=cached,
            pictures=folder / pictures.FOLDER,
            images=settings.images and folder / images.FOLDER,
            models=settings.models and folder / models.FOLDER,
            anchors={kind: _mapped(job) for kind, job in settings.anchors.items()},
        )
        local = catalogue.get("launchers", "local").load()
        with closing(local.launch([_mapped(job) for job in jobs], mine)) as events:
            for batch in _together(events):
                ended = [event for event in batch if isinstance(event, Finished)]
                for event in ended:
                    if event.trained:
                        states.remove(states.path(cached, event.job.training, mine.environment))
                said = tuple(
                    replace(one, environment=_environment()) if isinstance(one, Finished) else one for one in batch
                )
                yield Batch(said, tuple(file for event in ended for file in _files(event, folder)))


def _mapped(job: Job) -> Job:
    """A job with the paths that its data set has on this node."""
    mine = None if job.root is None else here(job.root)
    if job.root is None or mine is None or mine == job.root:
        return job
    without = tuple(str(mine / Path(path).relative_to(job.root)) for path in job.without)
    return replace(job, root=mine, without=without)


def _beside(results: Path, scratch: Path) -> None:
    """Let measures find what earlier runs have kept (`bench.plan.models`), where the nodes share the results."""
    with suppress(OSError):
        for machine in results.iterdir():
            if (machine / models.FOLDER).is_dir():
                (scratch / machine.name).symlink_to(machine)


def _files(event: Finished, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """What a job's measure has written for its record; it is gone from here then."""
    of_record = {images.FOLDER: (IMAGES, ".npz"), models.FOLDER: (MODEL, models.ENDING)}
    found = [(kind, f"{event.values.get(name)}{ending}") for kind, (name, ending) in of_record.items()]
    if event.job.measure.trains:
        found.append((pictures.FOLDER, pictures.name(asdict(event.job.cell))))
    for kind, name in found:
        path = folder / kind / name
        if path.is_file():
            yield kind, name, path.read_bytes()
            path.unlink()


def _together(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Events in batches: steps wait a moment for what comes next, and of several steps of a job the last counts."""
    held: dict[str, Progress] = {}
    sent = time.monotonic()
    for event in events:
        if isinstance(event, Progress):
            held[event.job.key] = event
            if time.monotonic() - sent < TOGETHER_S:
                continue
            yield [*held.values()]
        else:
            yield [*held.values(), event]
        held, sent = {}, time.monotonic()
    if held:
        yield [*held.values()]


_ANSWERS: Mapping[str, Callable[..., Any]] = {"about": about, "look": look}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests (function, arguments) one after the other, until there are no more.

    One of `launch` gets a batch after the other, and then None.
    """

    def send(answer: object) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    queue: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
    Thread(target=_listen, args=(requests, queue), daemon=True).start()
    while True:
        name, arguments = queue.get()
        if name in _ANSWERS:
            send(_ANSWERS[name](*arguments))
            continue
        for batch in launch(*arguments):
            send(batch)
        send(None)


def _listen(requests: BinaryIO, queue: "SimpleQueue[tuple[str, tuple[Any, ...]]]") -> None:
    """Take requests, whatever is measured meanwhile; whoever asks no more, or has ended, ends this process.

    Its workers end with their server, and that with this process.
    """
    with suppress(EOFError, OSError):
        while True:
            queue.put(pickle.load(requests))  # noqa: S301 - of the process that started this one
    for folder in _SCRATCH:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def main() -> None:
    """Serve by stdin and stdout; what libraries print there goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    serve(requests, answers)
