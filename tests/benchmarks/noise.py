"""Does a comparison claim what is there, and nothing else? A cell against itself, and against itself slowed down.

``python -m tests.benchmarks.noise > results/MACHINE/proof/noise.md`` on a quiet machine, about a quarter of an hour on two
cores. Every comparison is of two processes of one group, timed in turns as `densebench run` does it and judged by
`bench.report.claims.claim` from the same records.
"""

import math
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest import mock

from bench.cache import cache_folder
from bench.launchers import _worker, local
from bench.launchers.contract import Finished, Job, Settings
from bench.plan import matrix
from bench.plan.environment import describe
from bench.plan.measure import Precision, measures
from bench.report.claims import claim
from bench.store.record import Record

CELLS = ({"backbone": ["vit_pico"], "head": ["linear"]}, {"backbone": ["hybrid_pico"], "head": ["fcos_pico"]})
SAME, SLOWED = 200, 24
"""Comparisons of a cell with itself, and for each slowdown."""
SLOWDOWNS = (1.02, 1.05, 1.10, 1.20)
PROMISE = 2.0
"""Noise floors by which two cells have to differ for the difference to be found for certain. Nothing below one floor is
claimed; what differs by just one is found every second time, since the estimate falls on either side of it."""
PAIRS = 6
"""Comparisons a group; each process takes part in one of them. They share the group's noise floor and its weather."""
BUDGET_S = 0.8


def work(job: Job, settings: Settings, threads: int, connection: object) -> None:
    """`bench.launchers.worker.work`; the model of a job whose key says so is slowed down, call by call, by that factor."""
    from bench.launchers.worker import work as real
    from bench.model import artifact

    factor = float(job.key.partition(" ")[0])
    forward = artifact.Artifact.forward

    def slowed(self: artifact.Artifact) -> object:
        start = time.perf_counter()
        found = forward(self)
        end = start + factor * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return found

    # All of the budget for the call that is compared.
    mock.patch.object(artifact.Artifact, "parts", return_value={}).start()
    if factor > 1:
        with mock.patch.object(artifact.Artifact, "forward", slowed):
            real(job, settings, threads, connection)  # pyright: ignore[reportArgumentType]
    real(job, settings, threads, connection)  # pyright: ignore[reportArgumentType]


def group(axes: dict[str, list[str]], factors: list[float], folder: Path) -> list[Record]:
    """Records of one group with a process for each factor, in their order; empty if any has no number."""
    asked = matrix.load("default").override({"patch": ["16"], "resolution": ["64"], "batch": ["1"], **axes})
    cell = next(iter(asked.cells(describe())))[0]
    measure = measures()["latency"]
    jobs = [Job(measure, cell, None, f"{factor} {index}") for index, factor in enumerate(factors)]
    settings = Settings(cache_folder(), folder, 600.0, len(jobs), Precision(1e-4, BUDGET_S, "refuse"))
    with mock.patch.object(_worker, "_work", work):
        ended = {one.job.key: one for one in local.launch(jobs, settings) if isinstance(one, Finished)}
    for key, one in ended.items():
        if one.status != "ok":
            sys.stderr.write(f"{key}: {one.status}: {one.reason}\n")
    if any(one.status != "ok" for one in ended.values()):
        return []
    found = [ended[job.key] for job in jobs]
    return [
        Record("latency", measure.version, {}, {}, "here", one.status, "", one.values, one.samples) for one in found
    ]


def compare(factor: float, wanted: int, folder: Path) -> tuple[list[tuple[float, float, bool]], int]:
    """(ratio, noise floor, claimed) of so many comparisons of a slowed process with one that is not; and failed groups."""
    measure = measures()["latency"]
    found: list[tuple[float, float, bool]] = []
    failed = 0
    while len(found) < wanted:
        axes = CELLS[(len(found) // PAIRS + failed) % len(CELLS)]
        records = group(axes, [1.0, factor] * PAIRS, folder)
        if not records:
            failed += 1
            continue
        for plain, slow in zip(records[::2], records[1::2], strict=True):
            said = claim(measure, slow, plain)
            if said.ratio is not None and said.floor is not None:
                found.append((said.ratio.value, said.floor, said.different))
        sys.stderr.write(f"x {factor}: {len(found)} of {wanted}, {sum(one[2] for one in found)} claimed\n")
    return found[:wanted], failed


def report(
    same: list[tuple[float, float, bool]], slowed: dict[float, list[tuple[float, float, bool]]], failed: int
) -> str:
    """Markdown."""
    share = 100 * sum(claimed for *_, claimed in same) / len(same)
    off = sorted(abs(ratio - 1) for ratio, *_ in same)
    floors = sorted(floor for _, floor, _ in same)
    lines = [
        "# What a comparison claims",
        "",
        "`python -m tests.benchmarks.noise` on "
        + describe().title()
        + ". Forward passes at 64x64, batch 1, of "
        + " and ".join(f"{axes['backbone'][0]}/16 under {axes['head'][0]}" for axes in CELLS)
        + f"; {PAIRS} comparisons a group, each of two processes of their own, {BUDGET_S} s of timing a process.",
        "",
        f"**A against A**: {sum(claimed for *_, claimed in same)} of {len(same)} comparisons of a cell with itself are "
        f"called different ({share:.1f} %; at most 5 % may). The ratios are off 1 by {100 * median(off):.2f} % (median), "
        f"{100 * off[int(0.95 * len(off))]:.2f} % (95th percentile); the noise floors were {100 * floors[0]:.1f} to "
        f"{100 * floors[-1]:.1f} %, median {100 * median(floors):.1f} %.",
        "",
        f"**Slowed down**, every call by the same factor. *Promised* are those whose factor is above {PROMISE:g} times the "
        "noise floor of their own group: nothing below the floor is claimed, and of what differs by just as much, half.",
        "",
        "| slowdown (%) | comparisons | found (%) | promised | found of those (%) | median ratio found |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for factor, found in slowed.items():
        promised = [one for one in found if math.log(factor) > PROMISE * one[1]]
        hit = f"{100 * sum(one[2] for one in promised) / len(promised):.0f}" if promised else ""
        lines.append(
            f"| {100 * (factor - 1):.0f} | {len(found)} | {100 * sum(one[2] for one in found) / len(found):.0f} "
            f"| {len(promised)} | {hit} | {median(one[0] for one in found):.3f} |"
        )
    lines += [
        "",
        f"Groups in which a process was disturbed too often to have a number, and which were repeated: {failed}.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and print the report."""
    with TemporaryDirectory() as folder:
        same, failed = compare(1.0, SAME, Path(folder))
        slowed = {}
        for factor in SLOWDOWNS:
            slowed[factor], more = compare(factor, SLOWED, Path(folder))
            failed += more
    sys.stdout.write(report(same, slowed, failed))


if __name__ == "__main__":
    main()
