"""Time of a forward pass, of its parts and of image to prediction, taken in rounds with the other cells of the run."""

import torch

from bench.model import artifact
from bench.model.traffic import Traffic
from bench.plan.cell import CALIBRATED, Cell
from bench.plan.measure import CALIBRATION, DECODING, Context, Outcome, Value
from bench.timing.clock import clock_of
from bench.timing.rounds import Rounds

CATALOGUE = {
    "latency": {
        "version": 2,
        "fields": ["@model", "@mode", "@runtime", "batch"],
        "exclusive": True,
        "interleaved": "latency_ms",
        "needs": ["roof"],
        "seconds": 3.0,
        "columns": [
            {"name": "latency_ms", "unit": "ms", "title": "latency", "better": "lower", "digits": 2},
            {"name": "latency_ci_pct", "unit": "%", "title": "± 95 % CI", "better": "lower", "digits": 1},
            {"name": "images_per_s", "unit": "1/s", "title": "images/s", "better": "higher", "digits": 1},
            {"name": "backbone_ms", "unit": "ms", "title": "backbone", "better": "lower", "digits": 2},
            {"name": "head_ms", "unit": "ms", "title": "head", "better": "lower", "digits": 2},
            {"name": "post_ms", "unit": "ms", "title": "post", "better": "lower", "digits": 2},
            {"name": "end_to_end_ms", "unit": "ms", "title": "end to end", "better": "lower", "digits": 2},
            {"name": "latency_p90_ms", "unit": "ms", "title": "p90", "better": "lower", "digits": 2, "table": False},
            {"name": "latency_p99_ms", "unit": "ms", "title": "p99", "better": "lower", "digits": 2, "table": False},
            {"name": "compile_s", "unit": "s", "title": "compile", "better": "lower", "digits": 1},
            {"name": "export_s", "unit": "s", "title": "export", "better": "lower", "digits": 1},
            {"name": "artifact_mib", "unit": "MiB", "title": "artifact", "better": "lower", "digits": 1},
            {"name": "load_s", "unit": "s", "title": "load", "better": "lower", "digits": 2, "table": False},
            {"name": "first_ms", "unit": "ms", "title": "first call", "better": "lower", "digits": 1, "table": False},
            {"name": "deviation", "unit": "", "title": "deviation", "better": "lower", "digits": 4},
            {"name": "candidates", "unit": "", "title": "candidates", "digits": 0, "table": False},
            {"name": "operations", "unit": "", "title": "operations", "digits": 0, "table": False},
            {"name": "traffic_mib", "unit": "MiB", "title": "traffic", "better": "lower", "digits": 0, "table": False},
            {"name": "noise_floor_pct", "unit": "%", "title": "noise floor", "digits": 1, "table": False},
            {"name": "rounds", "unit": "", "title": "rounds", "digits": 0, "table": False},
            {"name": "disturbed_rounds", "unit": "", "title": "disturbed", "digits": 0, "table": False},
        ],
    }
}


def measure(cell: Cell, context: Context) -> Outcome:
    """Median over rounds of the forward pass of backbone and head on a batch that is already on the device.

    Loading is not timed. Beside it, in the same rounds: the backbone alone, the head alone on the backbone's maps,
    decoding (``post``) and image to prediction (``end_to_end``). ``± CI`` is half of the 95 % confidence interval of
    the median, from the spread between rounds; the budget ended the rounds where it is above the target. A random
    detector decodes a full load of ``candidates`` boxes. The outputs are first compared with eager float32
    (``deviation``, relative L2). Of a model in another runtime ``end_to_end`` is the exported graph with decoding in
    it; where that cannot be, decoding is torch's and ``post`` its time. What is timed was not trained, and int8 is
    calibrated by noise: what that loses, only `accuracy` says.

    Columns:
        latency_ms: median over rounds of a forward pass of the batch.
        latency_ci_pct: half of its 95 % confidence interval, as a share of it.
        images_per_s: batch over latency.
        backbone_ms: the backbone alone.
        head_ms: the head alone, on the backbone's maps.
        post_ms: decoding: raw outputs to classes of pixels or boxes; unknown where it is in a runtime's graph.
        end_to_end_ms: image to prediction.
        latency_p90_ms: 90th percentile of single passes; unknown where there are too few.
        latency_p99_ms: 99th percentile, likewise.
        compile_s: seconds of compilation; unknown in eager mode.
        export_s: seconds that the export to the runtime took when it was made, up to the raw output; unknown of torch.
        artifact_mib: size of these files.
        load_s: seconds that the runtime takes to load them.
        first_ms: its first call, which is not timed with the others.
        deviation: relative L2 distance of the outputs from those of eager float32.
        candidates: boxes that a random detector was given to decode; unknown for a segmentation.
        operations: of a pass, of the whole batch.
        traffic_mib: what they read and write.
        noise_floor_pct: by how much one cell, measured as two, may differ from itself; of the group.
        rounds: that were taken.
        disturbed_rounds: those in which other processes used the machine.
    """
    ready = artifact.prepare(context, fresh=True, decoded=True)
    traffic = ready.traffic
    if traffic is None:
        with torch.no_grad(), Traffic(fused=cell.compile != "cudagraph") as traffic:
            ready.net(ready.image)
    with torch.inference_mode():
        rounds = Rounds("latency", ready.forward, ready.parts(cell), clock_of(ready.device), cell, context)
        rounds.take()
    values: dict[str, Value] = {
        "deviation": ready.deviation,
        "compile_s": ready.compile_s,
        "candidates": ready.candidates,
        "operations": traffic.operations,
        "traffic_mib": traffic.bytes / 2**20,
    }
    if (made := ready.deployed) is not None:
        values |= {"operations": None, "traffic_mib": None}  # how many, the runtime decides
        values |= {"export_s": made.export_s, "artifact_mib": made.mib}
        values |= {"load_s": made.load_s, "first_ms": made.first_ms, DECODING: ready.decoding, **made.said}
    if cell.quantise in CALIBRATED:
        values[CALIBRATION] = artifact.NOISE
    return rounds.outcome(values, rate="images_per_s")
