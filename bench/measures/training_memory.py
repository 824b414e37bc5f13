"""Peak memory of training above weights and batch: activations, gradients and optimiser state."""

import torch

from bench.model import artifact
from bench.model.artifact import Training
from bench.model.storage import MIB, allocated_peak, device_process_bytes, live_peak, resident_peak
from bench.plan.cell import Cell
from bench.plan.measure import Context, Invalid, Outcome

CATALOGUE = {
    "training_memory": {
        "version": 1,
        "fields": ["@model", "@mode", "batch", "recipe"],
        "exclusive": False,
        "asked": True,
        "seconds": 4.0,
        "columns": [
            {"name": "train_peak_mib", "unit": "MiB", "title": "train peak", "better": "lower", "digits": 1},
            {"name": "train_process_mib", "unit": "MiB", "title": "train process", "better": "lower", "digits": 0},
            {"name": "train_reserved_mib", "unit": "MiB", "title": "train reserved", "better": "lower", "digits": 0},
        ],
    }
}

STEPS = 2
"""The optimiser makes its state in the first step, so the second is the first that meets all of it."""


def measure(cell: Cell, context: Context) -> Outcome:
    """Memory at the peak of two training steps that start without gradients and optimiser state.

    A step is that of ``training``: float32 weights, autocast to the cell's dtype, AdamW, noise with a made-up truth.
    CPU: bytes of tensor storage alive at a time, which leaves out scratch inside kernels; unknown for a compiled model.
    ``train process``: growth of the process's physical memory over two steps (high-water mark). CUDA: peak allocated
    above the baseline after a warm-up (unknown under max-autotune, whose graphs keep their memory to themselves), what
    the driver says the whole process has afterwards, and the allocator's whole pool at the peak.

    Columns:
        train_peak_mib: at the peak of a step, above weights and batch.
        train_process_mib: of the whole process.
        train_reserved_mib: the allocator's pool; unknown on a CPU.
    """
    ready = artifact.prepare_training(context)
    torch.manual_seed(cell.seed)  # what a loss draws decides what it allocates
    context.report("first step", 0, 1)
    peak: int | None = None
    reserved: int | None = None
    if ready.device.type == "cpu":
        if cell.compile == "none":
            peak = live_peak(lambda: _steps(ready))
        else:
            _steps(ready)
        _clear(ready)
        process = resident_peak(lambda: _steps(ready))
    else:
        # Libraries make their workspaces and compilers compile in the first steps; neither is the model's.
        _steps(ready)
        _clear(ready)
        peak, reserved = allocated_peak(lambda: _steps(ready), ready.device)
        process = device_process_bytes(ready.device)
        if cell.compile == "max-autotune":
            peak = None
    with torch.no_grad():
        if not all(bool(torch.isfinite(parameter).all()) for parameter in ready.net.parameters()):
            raise Invalid("weights are not finite after some steps: what is measured is no training")
    sizes = {"train_peak_mib": peak, "train_process_mib": process, "train_reserved_mib": reserved}
    return Outcome({name: None if size is None else size / MIB for name, size in sizes.items()})


def _steps(ready: Training) -> None:
    for _ in range(STEPS):
        ready.step()


def _clear(ready: Training) -> None:
    """Back to before the first step, the weights' values apart."""
    ready.stepper.optimizer.zero_grad(set_to_none=True)
    ready.stepper.optimizer.state.clear()
