"""The largest batch whose forward pass fits into a limit of memory, every trial in a fresh process."""

import _thread
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from backbones.contract import Unsupported
from bench.errors import UserError
from bench.measures._largest import largest, straight
from bench.model import build, modes
from bench.model.quick import quick_weights
from bench.model.storage import MIB, status_bytes, trim
from bench.plan import oom
from bench.plan.case import Case
from bench.plan.cell import SILENT, Cell, agrees
from bench.plan.measure import Context, Invalid, Outcome

CATALOGUE = {
    "max_batch": {
        "version": 1,
        "fields": ["@model", "@mode", "@runtime", "limit_mib"],
        "exclusive": True,
        "asked": True,
        "seconds": 60.0,
        "columns": [
            {"name": "max_batch", "unit": "", "title": "largest batch", "better": "higher", "digits": 0},
            {"name": "max_batch_mib", "unit": "MiB", "title": "at largest batch", "digits": 0, "table": False},
            {"name": "limit_mib_used", "unit": "MiB", "title": "limit", "digits": 0, "table": False},
            {"name": "probes", "unit": "", "title": "probes", "digits": 0, "table": False},
        ],
    }
}

SHARE = 0.8
"""Of the memory that is free at the start: what a trial on a CPU may take if no limit is set."""
FEW = 8
"""Images of noise that are drawn; a larger batch repeats them."""
CONTEXT = 1024 * MIB
"""What of a GPU may be taken before the model is there: a context with its kernels takes some hundred MiB."""

_LARGE = 128 * 1024
"""Bytes from which on a block is kept off the heap; glibc's own first choice."""

# What libraries say when memory runs out, where the type of the error does not say it.
_OUT = ("allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed")
# What those do that do not check: oneDNN gives no reason, cuDNN says that none of its ways of a convolution can be had,
# others die. It counts once a smaller batch has fitted.
_SUSPECT = (
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
    "unable to find an engine",
)
_SUSPECT_DEATHS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
_PROPAGATED = {kind.__name__: kind for kind in (Unsupported, Invalid, UserError)}


@dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Attributes:
        end: "fits", "oom", "suspect" (may have been memory), or the name of an error's class.
        reason: in a sentence, unless it fits.
        mib: what it took at its peak, weights and input included; None: unknown.
        limit_mib: what it was allowed to take.
        room_mib: what there was of that; None: unknown.
    """

    end: str
    reason: str = ""
    mib: float | None = None
    limit_mib: float | None = None
    room_mib: float | None = None


def measure(cell: Cell, context: Context) -> Outcome:
    """The largest batch whose forward pass (inference) fits: exact up to 256 images, above that within a sixteenth.

    Doubled from 1 until a batch does not fit, then bisected; on a GPU, whose allocator says what a pass took, two small
    batches say where to look instead. The answer is tried once more, and lowered until it holds. No batch is split.
    Each trial is a process of its own with a new model, whose weights, input and activations have to fit into
    ``limit_mib``. 65536 images are the most that is tried, and the answer where they fit.

    CPU: the limit is on the address space that a trial takes once torch and its libraries are there (by default 80 %
    of the memory that is free); building the model is not limited, but what torch.compile needs is. Large tensors are
    kept off the heap, so that the answer is not one of its gaps. CUDA: the limit is on torch's allocator (by default
    the device's memory), and the context comes on top of it; where others hold memory that it would need, nothing is
    searched for.

    Columns:
        max_batch: images of the largest batch that fits.
        max_batch_mib: what it took at its peak.
        limit_mib_used: what it was allowed to take.
        probes: batches that were tried.

    Samples:
        probe_batch: the sizes that were tried.
        probe_fits: 1 for each of them that fitted, else 0.

    Raises:
        torch.OutOfMemoryError: one image does not fit.
        Invalid: other processes hold memory of the GPU.
        Unsupported: the model is quantised, or runs elsewhere than in torch, where each batch is another export.
    """
    _in_torch(cell)
    check_forkable(context.threads)
    import_module("torch._dynamo")  # half a second, which building a model would spend in every trial
    case = context.case
    len(case.classes)  # read here, once, and not in every trial

    def free_limit() -> int | None:
        return round(SHARE * available_bytes()) if cell.device == "cpu" else None

    def attempt(batch: int, limit: int | None) -> Trial:
        context.report(f"batch {batch}", 0, 1)
        return in_child(lambda: _forward(case, replace(cell, batch=batch), limit, context.threads))

    limit = cell.limit_mib * MIB or free_limit()
    tried: list[tuple[int, Trial]] = []

    def fits(batch: int) -> bool:
        trial = attempt(batch, limit)
        tried.append((batch, trial))
        if trial.end in ("fits", "oom"):
            return trial.end == "fits"
        if trial.end == "suspect":
            if any(before.end == "fits" for _, before in tried):
                return False
            # Nothing has fitted yet. If it does with all the memory there is, memory is what was missing.
            if cell.limit_mib and attempt(batch, free_limit()).end == "fits":
                return False
        if trial.end in _PROPAGATED:
            raise _PROPAGATED[trial.end](trial.reason)
        raise RuntimeError(f"with batch {batch}: {trial.reason}")

    # Of a CPU a trial's peak is known in part alone.
    best = largest(fits, predict=None if cell.device == "cpu" else partial(_predicted, tried))
    last = tried[-1][1]
    if best == 0:
        room = "the device's memory" if limit is None else f"{limit / MIB:.0f} MiB"
        raise torch.OutOfMemoryError(f"one image does not fit into {room}: {last.reason}")
    values = {
        "max_batch": best,
        "max_batch_mib": last.mib,
        "limit_mib_used": last.limit_mib,
        "probes": len(tried),
    }
    samples = {
        "probe_batch": [float(batch) for batch, _ in tried],
        "probe_fits": [float(trial.end == "fits") for _, trial in tried],
    }
    return Outcome(values, samples)


def _predicted(tried: Sequence[tuple[int, Trial]]) -> int | None:
    return straight([(batch, trial.mib, trial.room_mib) for batch, trial in tried if trial.end == "fits"])


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had now: what Linux takes to be available, or what is left of the container's if that is less.

    Args:
        meminfo: the kernel's file.
        group: folder of the control group, version 2 or 1.

    Raises:
        Unsupported: the system does not tell.
    """
    try:
        sizes = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
        free = next(int(words[1]) * 1024 for words in sizes if words[0] == "MemAvailable:")
    except (OSError, StopIteration) as error:
        raise Unsupported(f"{meminfo} does not tell how much memory is available; set limit_mib") from error
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        # "max", where there is no limit, is no number.
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int((group / most).read_text()) - int((group / used).read_text()))
    return max(0, free)


def check_forkable(threads: int) -> None:
    """Refuse to fork a process that has computed: its child would wait for threads that it does not have.

    Args:
        threads: CPU threads of one operation.

    Raises:
        RuntimeError: CUDA is in use, or there are threads of which neither Python nor a fork knows.
    """
    if torch.cuda.is_initialized():
        raise RuntimeError("CUDA is in use in this process, and a child forked from it could not use it")
    # This starts the pool of threads that torch makes anew after a fork. OpenMP's, which starts at the first operation
    # that is worth several threads and does not survive a fork, comes on top of it.
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError):
        native = len(list(Path("/proc/self/task").iterdir())) - 1 - _thread._count()  # noqa: SLF001 - threading misses some
        if native > threads - 1:
            raise RuntimeError(
                f"{native} threads of libraries run in this process, and a child forked from it would wait for them; "
                "measure in a process that has not computed anything yet"
            )


def in_child(task: Callable[[], Trial]) -> Trial:
    """Run a task in a forked process, which ends with this one at the latest."""
    parent, kills = os.getpid(), oom.kills()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(task, writing, parent)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if answer:
        return Trial(**json.loads(answer))
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Trial("RuntimeError", f"its process ended with exit code {code} and no result")
    killed = signal.Signals(-code)
    # Anybody may send SIGKILL; the kernel counts its own for want of memory.
    memory = killed == signal.SIGKILL and kills is not None and (oom.kills() or 0) > kills
    end = "oom" if memory else "suspect" if killed in _SUSPECT_DEATHS else "RuntimeError"
    return Trial(end, f"its process died of {killed.name}")


def _in_child(task: Callable[[], Trial], writing: int, parent: int) -> NoReturn:
    try:
        _end_with(parent)
        gc.freeze()  # what the parent has is no garbage, and looking at it copies its pages
        trial = task()
    except BaseException as error:  # noqa: BLE001 - the parent raises it again
        trial = explain(error)
    try:
        os.write(writing, json.dumps(vars(trial)).encode())
    finally:
        # Nothing of the parent's is to be torn down here: no exit handlers, no connections, no buffers.
        os._exit(0)


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, and rather than others when the machine's memory runs out."""
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has them
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if os.getppid() != parent:
        os._exit(1)


def explain(error: BaseException) -> Trial:
    """A trial that ended in an error: for want of memory, or for another reason."""
    whole: BaseException | None = error
    end = _PROPAGATED.get(type(error).__name__, error.__class__).__name__
    reason = str(error).partition("\n")[0]
    if end not in _PROPAGATED:
        reason = f"{end}: {reason}"
    while whole is not None:  # a compiler wraps what it met
        text = str(whole).lower()
        if isinstance(whole, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _OUT):
            return Trial("oom", str(whole).partition("\n")[0] or "out of memory")
        if any(words in text for words in _SUSPECT):
            end = "suspect"
        whole = whole.__cause__ or whole.__context__
    return Trial(end, reason)


def _in_torch(cell: Cell) -> None:
    if not agrees(cell, SILENT):
        raise Unsupported(
            "the largest batch is searched in torch, without a quantisation; not with "
            f"runtime {cell.runtime}, quantise {cell.quantise}",
            axes=("runtime", "quantise"),
        )


def _forward(case: Case, cell: Cell, limit: int | None, threads: int) -> Trial:
    """One forward pass of a new model in a mode and batch, within a limit in bytes. Runs in the child."""
    torch.set_num_threads(threads)
    device = build.device_of(cell)
    modes.set_precision(cell, device)
    if device.type == "cpu":
        assert limit is not None, "there is always one on a CPU"
        return _on_cpu(case, cell, limit)
    if device.type == "cuda":
        return _on_cuda(case, cell, limit, device)
    raise Unsupported(
        f"the largest batch is searched for on a CPU or a CUDA device, where memory can be limited, "
        f"and the device is {device}"
    )


def _on_cpu(case: Case, cell: Cell, limit: int) -> Trial:
    device = torch.device("cpu")
    _keep_heap_small()
    _start_libraries()
    start = status_bytes("VmSize")
    net = _build(case, cell, device)
    trim()
    before = status_bytes("VmPeak")
    with _address_space(start + limit):
        _pass(net, cell, device)
    peak = status_bytes("VmPeak")
    # The kernel's mark cannot be reset: where building took more, that of the pass is not known.
    return Trial("fits", mib=(peak - start) / MIB if peak > before else None, limit_mib=limit / MIB)


def _on_cuda(case: Case, cell: Cell, limit: int | None, device: torch.device) -> Trial:
    total = torch.cuda.get_device_properties(device).total_memory
    if limit is not None:
        if limit > total:
            raise Unsupported(f"limit_mib={limit // MIB} is more than the {total // MIB} MiB of the device")
        torch.cuda.set_per_process_memory_fraction(limit / total, device.index)
    room = min(limit or total, _free(limit, total, device))
    net = _build(case, cell, device)
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats(device)
    _pass(net, cell, device)
    peak = torch.accelerator.max_memory_allocated(device)
    return Trial("fits", mib=peak / MIB, limit_mib=(limit or total) / MIB, room_mib=room / MIB)


def _free(limit: int | None, total: int, device: torch.device) -> int:
    """Bytes that are free before the model is there.

    Raises:
        Invalid: others hold memory that the trial may need: the answer would be that of a smaller device.
    """
    free, _ = torch.cuda.mem_get_info(device)
    if limit is None and total - free > CONTEXT:
        lacking = f"the default limit is all {total // MIB} MiB"
    elif limit is not None and limit > free:
        lacking = f"limit_mib={limit // MIB}"
    else:
        return free
    raise Invalid(
        f"{(total - free) // MIB} MiB of the device are held before the model is there, by other processes but for a "
        f"context of some hundred MiB, and {lacking}; end them, or set limit_mib to less than {free // MIB}"
    )


def _build(case: Case, cell: Cell, device: torch.device) -> torch.nn.Module:
    with quick_weights():
        net = modes.for_inference(build.of_case(case), cell, device)
    gc.collect()
    return net


def _pass(net: Callable[[Tensor], Any], cell: Cell, device: torch.device) -> None:
    run = modes.in_mode(net, cell, device)
    with torch.inference_mode():
        image = _noise(cell, device)
        # torch.compile with CUDA graphs compiles in the first call and records in the second.
        for _ in range(1 if cell.compile == "none" else 2):
            run(image)
            build.synchronize(device)


def _noise(cell: Cell, device: torch.device) -> Tensor:
    """A batch as `modes.noise` makes it, of a few images over and over, and without a copy in another dtype."""
    few = modes.noise(replace(cell, batch=min(cell.batch, FEW)), device)
    image = torch.empty(
        (cell.batch, *few.shape[1:]), dtype=few.dtype, device=device, memory_format=modes.memory_format(cell)
    )
    for start in range(0, cell.batch, FEW):
        image[start : start + FEW] = few[: cell.batch - start]
    return image


def _keep_heap_small() -> None:
    """From now on have every large block from the system, and give it back as soon as it is free.

    Otherwise glibc learns to keep blocks of up to 32 MiB, and fills the gaps that this process was forked with: whether
    a batch fits would depend on what happened to be there. Those gaps are filled here. Threads share one heap, for each
    other one reserves 64 MiB of addresses.
    """
    libc = ctypes.CDLL(None)
    try:
        libc.mallopt(-3, _LARGE)  # M_MMAP_THRESHOLD
        libc.mallopt(-8, 1)  # M_ARENA_MAX
    except AttributeError:  # another C library
        return
    trim()
    libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    size = 64 * MIB
    # Where the system gives nothing, what can be had is a gap.
    with contextlib.suppress(MemoryError), _address_space(status_bytes("VmSize")):
        while size >= _LARGE:
            if libc.malloc(size) is None:
                size //= 2


def _start_libraries() -> None:
    """Let libraries start their threads and make their tables: none of it is the model's."""
    with torch.inference_mode():
        torch.ones(1 << 18).add_(1)
        torch.mm(torch.ones(256, 256), torch.ones(256, 256))
        torch.nn.functional.conv2d(torch.ones(1, 3, 64, 64), torch.ones(8, 3, 3, 3))


@contextlib.contextmanager
def _address_space(most: int) -> Iterator[None]:
    """Within it this process can map no more than so many bytes in all; torch then says that it cannot allocate."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        # There has to be some for saying what happened.
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
