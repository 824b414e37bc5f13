"""How far a latency is from what the machine could do, and what it is probably spent on.

The three limits come from measure ``roof``, the counts from measures ``complexity`` and ``latency``. See Williams,
Waterman and Patterson 2009, Roofline: an insightful visual performance model (doi 10.1145/1498765.1498785); model FLOP
utilisation is that of Chowdhery et al. 2022, PaLM (arXiv 2204.02311), at inference.
"""

import math
from dataclasses import dataclass

UNKNOWN = "?"


@dataclass(frozen=True)
class Roofline:
    """Each limit's share of a latency, in percent: the time that it alone would take / the latency. None: not known.

    What it can say: a share is a time that this work needs if nothing else costs any, on this machine and with these
    kernels as yardstick. A high one (some 70 % and up) names what there is to gain by: fewer operations, smaller
    tensors or fused kernels, or fewer launches (compilation, CUDA graphs). Three low ones say that the kernels are far
    from what the machine can do.

    What it cannot say: the shares are three separate estimates and not parts of a whole. They overlap, so they do not
    add up to 100; each may be above 100 where its assumption does not hold. Arithmetic: only products and convolutions
    are counted, and a convolution may need fewer than are counted (Winograd). Traffic: every operation is taken to read
    its inputs from memory and write its outputs there, while small tensors stay in caches. Launches: an operation of
    the model may be several kernels, and none in a compiled one; on a GPU launching goes on beside computing, on a CPU
    it does not; a CUDA graph is taken to cost one launch, however large, and max-autotune on a GPU to be one graph. So
    ``bound`` is the largest of three estimates, a place to look first, and no proof.

    Attributes:
        mfu_pct: model FLOP utilisation: multiply-accumulates x 2 a second, as a share of the fastest matrix product of
            the same dtype, device and threads. It is arithmetic's share.
        traffic_pct: bytes read and written at the bandwidth of a large copy.
        launches_pct: operations at the cost of one that has nothing to do.
        bound: "arithmetic", "memory traffic" or "launch overhead", whichever share is largest; "?" unless all three
            are known.
    """

    mfu_pct: float | None
    traffic_pct: float | None
    launches_pct: float | None
    bound: str


def roofline(
    *,
    gmacs: float | None,
    batch: int,
    latency_ms: float | None,
    traffic_mib: float | None,
    operations: float | None,
    peak_tflops: float | None,
    copy_gbps: float | None,
    launch_us: float | None,
    recorded: bool = False,
) -> Roofline:
    """Compare a latency with the machine's limits; what is None makes None of what depends on it.

    Args:
        gmacs: 10^9 multiply-accumulates of one image.
        batch: images of a pass.
        latency_ms: of a pass.
        traffic_mib: MiB that the operations of a pass read and write, of the whole batch.
        operations: of a pass, of the whole batch.
        peak_tflops: 10^12 operations a second (a multiply-accumulate is two).
        copy_gbps: 10^9 bytes a second, read and written.
        launch_us: microseconds of an operation that has nothing to do.
        recorded: whether a pass replays a CUDA graph: all its operations are then one launch.
    """
    if recorded and operations is not None:
        operations = min(operations, 1.0)
    flops = None if gmacs is None else 2 * gmacs * 1e9 * batch
    traffic = None if traffic_mib is None else traffic_mib * 2**20
    idle_rate = None if not launch_us else 1e6 / launch_us  # operations a second
    shares = {
        "arithmetic": _share(flops, None if peak_tflops is None else peak_tflops * 1e12, latency_ms),
        "memory traffic": _share(traffic, None if copy_gbps is None else copy_gbps * 1e9, latency_ms),
        "launch overhead": _share(operations, idle_rate, latency_ms),
    }
    known = {name: share for name, share in shares.items() if share is not None}
    bound = max(known, key=lambda name: known[name]) if len(known) == len(shares) else UNKNOWN
    return Roofline(shares["arithmetic"], shares["memory traffic"], shares["launch overhead"], bound)


def _share(work: float | None, rate: float | None, latency_ms: float | None) -> float | None:
    """Percent of the latency that so much work takes at this rate (work a second)."""
    if work is None or rate is None or latency_ms is None or rate <= 0 or latency_ms <= 0:
        return None
    share = 100 * (work / rate) / (latency_ms / 1e3)
    return share if math.isfinite(share) else None
