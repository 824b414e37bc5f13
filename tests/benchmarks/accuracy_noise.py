"""Does a comparison of accuracies claim what is there, and nothing else? A model against itself under other seeds.

``python -m tests.benchmarks.accuracy_noise > results/MACHINE/proof/accuracy_noise.md`` trains 120 small models, half an
hour and more on two cores. What is trained is kept (in the folder ``accuracy_noise`` of the cache, or the one that is named), and the
same command goes on where it was cut off. Every comparison is made by `bench.report.evidence`, from records and what they
have kept of their images, as the tables and `densebench compare` do it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, median

import numpy as np

from bench import run as running
from bench.cache import cache_folder
from bench.launchers.contract import Settings
from bench.plan import matrix
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.report.evidence import compared
from bench.report.rows import Part, noise
from bench.stats.bootstrap import SEEDS
from bench.stats.ranking import Noise
from bench.stats.resample import RESAMPLES
from bench.store.images import FOLDER
from bench.store.store import Store

COMPARISONS, TRUE = 200, 100
"""Comparisons of a model with itself, and of two models that differ."""
KNOWN = 4
"""Other rows of two seeds each, from which single seeds get their noise: as in a small table."""


@dataclass(frozen=True)
class Task:
    """What is trained: a head, the column that ranks it, and (backbone, patch, size, seeds), the first against itself."""

    head: str
    column: str
    models: tuple[tuple[str, int, int, int], ...]


TASKS = (
    Task(
        "linear",
        "miou",
        (
            ("vit_pico", 8, 64, 24),
            ("deit_pico", 8, 64, 12),
            ("vit_pico", 8, 72, 12),
            ("vit_pico", 8, 80, 12),
            ("vit_pico", 16, 64, 12),
            ("hybrid_pico", 16, 64, 12),
        ),
    ),
    Task("fcos_pico", "ap", (("hybrid_pico", 16, 64, 24), ("hybrid_pico", 8, 64, 12))),
)


@dataclass(frozen=True)
class Count:
    """How many comparisons there were, how many of them were claimed, and by seed noise alone; the differences."""

    made: int
    claimed: int
    by_noise: int
    differences: tuple[float, ...]


def trained(task: Task, backbone: str, patch: int, size: int, seeds: int, folder: Path) -> Part:
    """All seeds of one model; those that are there are not trained again."""
    axes = {
        "backbone": [backbone],
        "patch": [str(patch)],
        "head": [task.head],
        "resolution": [str(size)],
        "recipe": ["short"],
        "seed": [str(seed) for seed in range(seeds)],
        "measure": ["accuracy"],
    }
    environment, store = describe(), Store(folder)
    plan = running.plan(matrix.load("default").override(axes), environment, store, Roots([]))
    settings = Settings(cache_folder(), folder / "pictures", 600.0, images=folder / FOLDER)
    done = running.run(plan, store, settings, launcher="local", show=lambda _: None, say=sys.stderr.write)
    sys.stderr.write(f"{backbone}/{patch} {task.head} {size} px: {len(done.records)} seeds\n")
    if done.interrupted or done.missing or done.missing_numbers:
        sys.exit(f"not all was trained: {done.missing_numbers}")
    return Part("accuracy", {}, tuple(done.records.values()), folder)


def some(part: Part, seeds: Sequence[int]) -> Part:
    """The part with these of its seeds alone."""
    return Part(part.measure, part.fields, tuple(part.records[seed] for seed in seeds), part.folder)


def count(pairs: Iterator[tuple[Part, Part, Noise | None]], column: str) -> Count:
    """Compare each pair, with the noise that is known of it."""
    made = claimed = by_noise = 0
    differences = []
    for one, other, spread in pairs:
        found = compared(one, other, column, spread)
        assert found is not None, "both were evaluated on the same images"
        made, claimed = made + 1, claimed + found.different
        stats = one.values[column], other.values[column]
        least = spread.difference(stats[0].n, stats[1].n) if spread else 0.0
        by_noise += abs(stats[0].mean - stats[1].mean) > least
        differences.append(found.value)
    return Count(made, claimed, by_noise, tuple(differences))


def itself(
    part: Part, column: str, seeds: int, random: np.random.Generator
) -> Iterator[tuple[Part, Part, Noise | None]]:
    """Disjoint sets of seeds of one model against each other."""
    every = len(part.records)
    if seeds == 1:
        pairs = list(combinations(range(every), 2))
        for index in random.permutation(len(pairs))[:COMPARISONS]:
            one, other = pairs[index]
            others = random.permutation([seed for seed in range(every) if seed not in {one, other}])[: 2 * KNOWN]
            rows = [some(part, others[start : start + 2]) for start in range(0, 2 * KNOWN, 2)]
            yield some(part, [one]), some(part, [other]), noise(rows, column)
        return
    for _ in range(COMPARISONS):
        chosen = random.permutation(every)[: 2 * seeds]
        one, other = some(part, chosen[:seeds]), some(part, chosen[seeds:])
        yield one, other, noise([one, other], column)


def others(
    first: Part, second: Part, column: str, seeds: int, random: np.random.Generator
) -> Iterator[tuple[Part, Part, Noise | None]]:
    """Sets of seeds of two models against each other."""

    def chosen(part: Part, number: int) -> list[int]:
        return random.permutation(len(part.records))[:number].tolist()

    for _ in range(TRUE):
        mine, theirs = (chosen(part, seeds + 2 * KNOWN if seeds == 1 else seeds) for part in (first, second))
        one, other = some(first, mine[:seeds]), some(second, theirs[:seeds])
        pairs = [
            some(part, [*which[start : start + 2]])
            for part, which in ((first, mine), (second, theirs))
            for start in (1, 3)
        ]
        yield one, other, noise(pairs if seeds == 1 else [one, other], column)


def report(results: list[tuple[Task, list[Part]]]) -> str:
    """Markdown."""
    random = np.random.default_rng(0)
    lines = [
        "# What a comparison of accuracies claims",
        "",
        "`python -m tests.benchmarks.accuracy_noise` on " + describe().title() + ". Trained on scenes by the recipe "
        "`short`, each with another seed; the truth is the same at every input size.",
        "",
        f"A comparison is a paired bootstrap ({RESAMPLES} samples of the validation images) that covers seeds, too: with "
        f"{SEEDS} seeds a side by drawing among them, with fewer by seed noise that is pooled over rows. Single seeds get "
        f"theirs from {KNOWN} rows of two seeds each that take no part in the comparison ({KNOWN} degrees of freedom), "
        "three against three from those six (4 degrees). *By seed noise alone* is what is claimed where no images are kept.",
        "",
        "## A model against itself",
        "",
        f"At most 5 % may be called different. {COMPARISONS} comparisons of disjoint sets of seeds, drawn from the 24 that "
        "were trained: every seed takes part in many of them, and all are evaluated on the same images, so they are far from "
        "independent, and a share of 5 % is known less well than its denominator suggests.",
        "",
        "| model | column | seeds a side | comparisons | called different (%) | by seed noise alone (%) | median difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]

    def line(name: str, column: str, seeds: int, found: Count, size: Callable[[Sequence[float]], float]) -> str:
        shares = (100 * number / found.made for number in (found.claimed, found.by_noise))
        return f"| {name} | {column} | {seeds} | {found.made} | " + " | ".join(
            [*(f"{share:.1f}" for share in shares), f"{size(found.differences):.2f} |"]
        )

    def name(part: Part) -> str:
        fields = part.records[0].fields
        return f"{fields['backbone']}/{fields['patch']} {fields['head']} {fields['height']} px"

    for task, parts in results:
        for seeds in (1, 3, SEEDS):
            found = count(itself(parts[0], task.column, seeds, random), task.column)
            lines.append(line(name(parts[0]), task.column, seeds, found, lambda values: median(map(abs, values))))
    lines += [
        "",
        "## Two models that differ",
        "",
        f"{TRUE} comparisons each, of seeds drawn anew from 12 (24 of the first): how often a difference is found. How large "
        "it really is, the means below tell.",
        "",
        "| models | column | seeds a side | comparisons | found (%) | by seed noise alone (%) | mean difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, parts in results:
        for other in parts[1:]:
            for seeds in (1, 3, SEEDS):
                found = count(others(parts[0], other, task.column, seeds, random), task.column)
                lines.append(line(f"{name(parts[0])} and {name(other)}", task.column, seeds, found, mean))
    lines += [
        "",
        "## Means and seed noise",
        "",
        "| model | column | seeds | mean | sd over seeds |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for task, parts in results:
        for part in parts:
            stat = part.values[task.column]
            lines.append(f"| {name(part)} | {task.column} | {stat.n} | {stat.mean:.2f} | {stat.sd:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Train what is missing, compare, and print the report."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder() / "accuracy_noise"
    results = [(task, [trained(task, *model, folder) for model in task.models]) for task in TASKS]
    sys.stdout.write(report(results))


if __name__ == "__main__":
    main()
