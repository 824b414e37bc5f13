"""Peak memory of inference above the model and its input: of tensors, exactly, and of the whole process."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from bench.model import artifact, modes
from bench.model.artifact import Artifact
from bench.model.grown import grown
from bench.model.storage import MIB, allocated_peak, device_process_bytes, live_peak, resident_peak
from bench.plan.cell import Cell
from bench.plan.measure import Context, Outcome, Value

CATALOGUE = {
    "memory": {
        "version": 3,
        "fields": ["@model", "@mode", "@runtime", "batch"],
        "exclusive": False,  # on a CPU it looks at its own process alone; elsewhere jobs run one by one anyway
        "seconds": 1.5,
        "columns": [
            {"name": "peak_mib", "unit": "MiB", "title": "peak memory", "better": "lower", "digits": 1},
            {"name": "end_to_end_peak_mib", "unit": "MiB", "title": "end to end", "better": "lower", "digits": 1},
            {"name": "process_mib", "unit": "MiB", "title": "process", "better": "lower", "digits": 0},
            {"name": "reserved_mib", "unit": "MiB", "title": "reserved", "better": "lower", "digits": 0},
            {"name": "weights_mib", "unit": "MiB", "title": "weights", "better": "lower", "digits": 1},
            {"name": "runtime_mib", "unit": "MiB", "title": "in its runtime", "better": "lower", "digits": 1},
        ],
    }
}

PASSES = 2


def measure(cell: Cell, context: Context) -> Outcome:
    """Memory at the peak of a forward pass, and of image to prediction, above weights and input; after a warm pass.

    CPU: bytes of tensor storage alive at a time, which repeats exactly and leaves out scratch inside kernels; unknown
    for a compiled model, for its graph allocates out of sight. ``process``: growth of the process's physical memory
    over two forward passes (high-water mark), scratch included, some MiB give or take.

    CUDA: peak allocated above the baseline; of a CUDA graph, while it is recorded, cuBLAS workspaces of the recording
    included; unknown under max-autotune, whose graphs keep their memory to themselves. ``process``: what the driver
    says the whole process has after the passes, context and kernels included (unknown where it does not tell).
    ``reserved``: the allocator's whole pool at the peak of the forward pass, weights included.

    Other runtimes than torch have tensors of their own, which nobody sees: of them ``runtime_mib`` alone is known, by
    how much a fresh process grows that loads the exported files and runs them (high-water mark of physical memory on a
    CPU, free memory of the device on a GPU). Weights, input and outputs are in it, so it is no ``peak_mib``.

    Columns:
        peak_mib: at the peak of a forward pass, above weights and input.
        end_to_end_peak_mib: of image to prediction.
        process_mib: of the whole process, see above.
        reserved_mib: the allocator's pool; unknown on a CPU.
        weights_mib: parameters and buffers.
        runtime_mib: what a fresh process takes for the exported model, its library apart; unknown of torch.
    """
    ready = artifact.prepare(context)
    context.report("peak memory", 0, 1)
    if ready.deployed is not None:
        unseen = ("peak_mib", "end_to_end_peak_mib", "process_mib", "reserved_mib", "weights_mib")
        found = grown(ready.deployed, cell, tuple(ready.image.shape), PASSES)
        return Outcome({**dict.fromkeys(unseen), "runtime_mib": _mib(found)})
    weights = sum(t.numel() * t.element_size() for t in chain(ready.net.parameters(), ready.net.buffers()))
    with torch.inference_mode():
        found = _on_cpu(ready, cell) if ready.device.type == "cpu" else _on_device(ready, cell)
    return Outcome(
        {**{name: _mib(size) for name, size in found.items()}, "weights_mib": weights / MIB, "runtime_mib": None}
    )


def _on_cpu(ready: Artifact, cell: Cell) -> dict[str, int | None]:
    process = resident_peak(lambda: _passes(ready))
    known = cell.compile == "none"
    return {
        "peak_mib": live_peak(ready.forward) if known else None,
        "end_to_end_peak_mib": live_peak(_end_to_end(ready, cell)) if known else None,
        "process_mib": process,
        "reserved_mib": None,
    }


def _passes(ready: Artifact) -> None:
    for _ in range(PASSES):
        ready.forward()


def _on_device(ready: Artifact, cell: Cell) -> dict[str, int | None]:
    _record_anew(ready, cell)
    peak, reserved = allocated_peak(ready.forward, ready.device)
    process = device_process_bytes(ready.device)
    _record_anew(ready, cell)
    end_to_end, _ = allocated_peak(_end_to_end(ready, cell), ready.device)
    known = cell.compile != "max-autotune"
    return {
        "peak_mib": peak if known else None,
        "end_to_end_peak_mib": end_to_end if known else None,
        "process_mib": process,
        "reserved_mib": reserved,
    }


def _end_to_end(ready: Artifact, cell: Cell) -> Callable[[], Any]:
    return lambda: ready.net.decode(ready.forward(), cell.size)


def _record_anew(ready: Artifact, cell: Cell) -> None:
    """Drop a CUDA graph, so that the next pass records one: replaying it allocates nothing."""
    if cell.compile == "cudagraph":
        ready.run = modes.in_mode(ready.net, cell, ready.device)


def _mib(size: int | None) -> Value:
    return None if size is None else size / MIB
