"""One callable, four ways to time it, in turns: densebench, torch.utils.benchmark, pytest-benchmark, timm's procedure.

``python -m tests.benchmarks.agreement > results/MACHINE/proof/agreement.md`` on a quiet machine, some minutes.
densebench takes part twice: what its two series differ by is what these rounds cannot tell apart.
"""

import sys
import time
from collections.abc import Callable
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.utils import NameWrapper
from torch.utils.benchmark import Timer

from bench.cache import cache_folder
from bench.model import artifact
from bench.plan import matrix
from bench.plan.case import resolve
from bench.plan.environment import describe
from bench.plan.measure import Context
from bench.stats.sampling import noise_floor, ratio
from bench.timing.clock import calls_within, clock_of, warm_up
from bench.timing.rounds import Places

CELLS = (
    {"backbone": ["vit_pico"], "head": ["linear"], "resolution": ["128"], "batch": ["8"]},
    {"backbone": ["swin_pico"], "head": ["upernet_pico"], "resolution": ["128"], "batch": ["1"]},
    {"backbone": ["hybrid_pico"], "head": ["fcos_pico"], "resolution": ["128"], "batch": ["1"]},
)
ROUNDS, ROUND_S = 120, 0.05
LIMIT = 0.02
"""Share within which the ways are to agree, or the measured floor where that is larger."""

Way = Callable[[Callable[[], Any], int], float]
"""Milliseconds of a callable, from about so many calls."""


def densebench(call: Callable[[], Any], count: int) -> float:
    """Median of a round of the suite's own clock."""
    return median(clock_of(torch.device("cpu")).times(call, count))


def torch_benchmark(call: Callable[[], Any], count: int) -> float:
    """``Timer.adaptive_autorange``: repeats until the interquartile range is a tenth of the median."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.adaptive_autorange(threshold=0.1, min_run_time=ROUND_S / 2, max_run_time=2 * ROUND_S).median * 1e3


def pytest_benchmark(call: Callable[[], Any], count: int) -> float:
    """The median of the fixture that ``def test(benchmark)`` gets."""
    kept: list[Any] = []
    fixture = BenchmarkFixture(
        SimpleNamespace(name="call", nodeid="call", get_closest_marker=lambda _: None, add_report_section=None),
        disable_gc=False,
        timer=NameWrapper(time.perf_counter),
        min_rounds=count,
        min_time=5e-6,
        max_time=ROUND_S / 2,
        precision=None,
        confidence=None,
        warmup=False,
        warmup_iterations=1,
        calibration_precision=10,
        add_stats=kept.append,
        logger=SimpleNamespace(debug=lambda *_, **__: None, warning=lambda *_, **__: None, info=lambda *_, **__: None),
        warner=None,
        disabled=False,
        cprofile=None,
        cprofile_loops=None,
        cprofile_dump=None,
    )
    fixture(call)
    return kept[0].stats.median * 1e3


def timm_procedure(call: Callable[[], Any], count: int) -> float:
    """As timm's benchmark script is documented: warm-up iterations, then the mean of single iterations between syncs."""
    for _ in range(max(1, count // 4)):
        call()
    steps = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        steps.append(time.perf_counter() - start)
    return mean(steps) * 1e3


WAYS: dict[str, Way] = {
    "densebench": densebench,
    "torch.utils.benchmark, adaptive": torch_benchmark,
    "densebench, again": densebench,
    "pytest-benchmark": pytest_benchmark,
    "timm's procedure": timm_procedure,
}


def measure(axes: dict[str, list[str]]) -> tuple[str, dict[str, dict[int, float]]]:
    """Title of the cell, and way -> round -> milliseconds."""
    cell = next(iter(matrix.load("default").override({"patch": ["native"], **axes}).cells(describe())))[0]
    torch.set_num_threads(cell.threads)
    ready = artifact.prepare(Context(lambda *_: None, cell.threads, resolve(cell, cache=cache_folder())))
    found: dict[str, dict[int, float]] = {name: {} for name in WAYS}
    with torch.inference_mode():
        warm = warm_up(clock_of(ready.device), ready.forward)
        count = max(3, calls_within(ROUND_S, warm.ms, most=100))
        names, places = list(WAYS), Places(cell.threads)
        for index in range(ROUNDS):
            # Each way has each place in the round equally often.
            for name in names[index % len(names) :] + names[: index % len(names)]:
                with places.taken(index):
                    ready.forward()
                    found[name][index] = WAYS[name](ready.forward, count)
        sys.stderr.write(f"{cell.title()}: {ROUNDS} rounds of {count} calls\n")
    return f"{cell.title()}, batch {cell.batch}", found


def report(results: list[tuple[str, dict[str, dict[int, float]]]]) -> str:
    """Markdown."""
    lines = [
        "# Four ways to time one callable",
        "",
        f"`python -m tests.benchmarks.agreement` on {describe().title()}, {torch.get_num_threads()} threads: "
        f"{ROUNDS} rounds in one process, each way once a round, in turning order. The floor is what densebench twice "
        "leaves uncertain in the same rounds (the end of the 95 % interval of A / A).",
        "",
        "| cell | way | median (ms) | ratio to densebench | 95 % interval | within 2 % or the floor |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for title, found in results:
        floor = noise_floor(found["densebench, again"], found["densebench"])
        assert floor is not None
        for name, rounds in found.items():
            against = ratio(rounds, found["densebench"])
            assert against is not None
            agrees = abs(against.value - 1) <= max(LIMIT, floor)
            said = "" if name == "densebench" else f"yes (floor {100 * floor:.1f} %)" if agrees else "NO"
            lines.append(
                f"| {title} | {name} | {median(rounds.values()):.3f} | {against.value:.3f} "
                f"| {against.low:.3f} to {against.high:.3f} | {said} |"
            )
    lines += [
        "",
        "timm's figure is a mean, the others are medians: where single calls are disturbed, the mean is the larger.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(report([measure(axes) for axes in CELLS]))
