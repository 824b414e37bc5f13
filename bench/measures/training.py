"""Time of a training step: forward pass, loss, backward pass, clipping and optimiser, taken in interleaved rounds."""

import time

import torch

from bench.model import artifact, build
from bench.plan.cell import Cell
from bench.plan.measure import Context, Invalid, Outcome, Value
from bench.timing.clock import clock_of
from bench.timing.rounds import Rounds

CATALOGUE = {
    "training": {
        "version": 1,
        "fields": ["@model", "@mode", "batch", "recipe"],
        "exclusive": True,
        "asked": True,
        "interleaved": "train_step_ms",
        "seconds": 5.0,
        "columns": [
            {"name": "train_step_ms", "unit": "ms", "title": "train step", "better": "lower", "digits": 1},
            {"name": "train_step_ci_pct", "unit": "%", "title": "± 95 % CI", "better": "lower", "digits": 1},
            {"name": "train_images_per_s", "unit": "1/s", "title": "train images/s", "better": "higher", "digits": 1},
            {"name": "train_step_p90_ms", "unit": "ms", "title": "train p90", "better": "lower", "table": False},
            {"name": "train_step_p99_ms", "unit": "ms", "title": "train p99", "better": "lower", "table": False},
            {"name": "train_compile_s", "unit": "s", "title": "train compile", "better": "lower", "digits": 1},
            {"name": "train_deviation", "unit": "", "title": "loss deviation", "better": "lower", "digits": 4},
            {"name": "train_noise_floor_pct", "unit": "%", "title": "noise floor", "digits": 1, "table": False},
            {"name": "train_rounds", "unit": "", "title": "rounds", "digits": 0, "table": False},
            {"name": "train_disturbed_rounds", "unit": "", "title": "disturbed", "digits": 0, "table": False},
        ],
    }
}


def measure(cell: Cell, context: Context) -> Outcome:
    """Median over rounds of a whole training step on a batch that is already on the device, as recipes take it.

    Weights and optimiser (AdamW) are float32, the forward pass runs under autocast to the cell's dtype. The images are
    noise and the truth is made up, with 8 objects an image in detection; reading and augmenting data is not timed. The
    first loss is compared with that of eager float32 (``loss deviation``, relative).

    Columns:
        train_step_ms: median over rounds of a step: forward, loss, backward, optimiser.
        train_step_ci_pct: half of its 95 % confidence interval, as a share of it.
        train_images_per_s: batch over a step's time.
        train_step_p90_ms: 90th percentile of single steps; unknown where there are too few.
        train_step_p99_ms: 99th percentile, likewise.
        train_compile_s: seconds of compilation; unknown in eager mode.
        train_deviation: of the first loss from that of eager float32, relative.
        train_noise_floor_pct: by how much one cell, measured as two, may differ from itself; of the group.
        train_rounds: that were taken.
        train_disturbed_rounds: those in which other processes used the machine.
    """
    ready = artifact.prepare_training(context)
    context.report("first step", 0, 1)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        ready.step()
        build.synchronize(ready.device)
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        if not all(bool(torch.isfinite(parameter).all()) for parameter in ready.net.parameters()):
            raise Invalid("weights are not finite after two steps: what is timed is no training")
    rounds = Rounds("train_step", ready.step, {}, clock_of(ready.device), cell, context, prefix="train_")
    rounds.take()
    values: dict[str, Value] = {
        "train_deviation": ready.deviation,
        "train_compile_s": None if cell.compile == "none" else max(0.0, seconds[0] - seconds[1]),
    }
    return rounds.outcome(values, rate="train_images_per_s")
