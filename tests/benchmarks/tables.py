"""How many tables of equal cells claim anything? At most one in twenty may.

``python -m tests.benchmarks.tables > results/MACHINE/proof/tables.md`` on a quiet machine, half an hour on two cores.
Every table is one group of processes of one and the same cell, timed in turns as `densebench run` does it; all pairs of
them are one family of claims, and what processes differ by is learnt from the tables before, as from a store.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from bench.plan.environment import describe
from bench.plan.measure import measures
from bench.report.claims import claim, processes
from bench.stats.family import ALPHA, family
from bench.store.record import Record
from tests.benchmarks import noise

TABLES = 200
ROWS = 6
PATIENCE = 5
"""Failed groups by which there may be more than tables."""
BUDGET_S = 0.5
"""Of timing a process."""


@dataclass(frozen=True)
class Found:
    """Of one table: the smallest p-value of its pairs, the level of the family, and the same by rounds alone."""

    smallest: float
    level: float
    by_rounds: float


def judge(table: list[Record], earlier: list[Record]) -> Found:
    """What a table claims."""
    measure = measures()["latency"]
    known = processes(measure, [*earlier, *table])
    said = {
        pair: claim(measure, table[pair[0]], table[pair[1]], between=known) for pair in combinations(range(ROWS), 2)
    }
    level = family((range(ROWS), lambda one, other: said[one, other].p)).level
    rounds = min(one.ratio.beyond(one.floor or 0) if one.ratio else 1.0 for one in said.values())
    return Found(min(one.p for one in said.values()), level, rounds)


def report(found: list[Found], failed: int) -> str:
    """Markdown."""
    pairs = ROWS * (ROWS - 1) // 2
    together = sum(one.smallest <= one.level for one in found)
    alone = sum(one.smallest <= ALPHA for one in found)
    floors = sum(one.by_rounds <= ALPHA for one in found)
    cells = " and ".join(f"{axes['backbone'][0]}/16 under {axes['head'][0]}" for axes in noise.CELLS)
    lines = [
        "# What tables of equal cells claim",
        "",
        f"`python -m tests.benchmarks.tables` on {describe().title()}. {len(found)} tables, each of {ROWS} processes of "
        f"one cell ({cells} in turn, 64x64, batch 1), {BUDGET_S} s of timing a process.",
        "",
        f"| what is claimed of the {pairs} pairs of a table | tables that claim anything | % |",
        "| --- | ---: | ---: |",
    ]
    rows = {
        "as `compare` claims: one family (Holm), rounds, noise floor and processes": together,
        "each pair by itself at 95 %": alone,
        "each pair by itself, rounds and noise floor alone": floors,
    }
    lines += [f"| {name} | {count} | {100 * count / len(found):.1f} |" for name, count in rows.items()]
    lines += [
        "",
        f"Groups in which a process was disturbed too often to have a number, and which were repeated: {failed}.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and print the report."""
    found: list[Found] = []
    earlier: list[Record] = []
    failed = 0
    # Ctrl-C ends it early, with what there is.
    with TemporaryDirectory() as folder, mock.patch.object(noise, "BUDGET_S", BUDGET_S), suppress(KeyboardInterrupt):
        while len(found) < TABLES:
            axes = noise.CELLS[(len(found) + failed) % len(noise.CELLS)]
            table = noise.group(axes, [1.0] * ROWS, Path(folder))
            if not table:
                failed += 1
                if failed > PATIENCE + len(found):
                    sys.exit("most groups were disturbed by other processes: run this on a quiet machine")
                continue
            found.append(judge(table, earlier))
            earlier.append(table[0])
            claiming = sum(one.smallest <= one.level for one in found)
            sys.stderr.write(f"{len(found)} of {TABLES}, {claiming} claim; {found[-1]}\n")
    sys.stdout.write(report(found, failed))


if __name__ == "__main__":
    main()
