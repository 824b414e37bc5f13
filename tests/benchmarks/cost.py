"""What sixty latencies cost: densebench against a plain script, wall time and confidence.

``python -m tests.benchmarks.cost FOLDER > results/MACHINE/proof/cost.md`` on a quiet machine; takes about twenty minutes
on two cores. ``FOLDER`` gets densebench's records and the plain script's samples. Both are run a second time: what an
interval is worth is what the next run finds.
"""

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.plan import matrix
from bench.plan.environment import describe
from bench.stats.sampling import interval, rounds_of
from bench.store.record import Record
from bench.store.store import Store

MATRIX = Path(__file__).with_suffix(".toml")
CLASSES = {"segmentation": 9, "detection": 8}
AGAIN = 2
"""Every so many cells the plain script runs a second time."""


def ours(folder: Path) -> tuple[float, list[Record]]:
    """Seconds of the whole command, and the latencies that it made."""
    shutil.rmtree(folder / "cost", ignore_errors=True)
    words = ["run", "--alone", "--matrix", str(MATRIX), "--results", str(folder), "--machine", "cost"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench", *words], check=False, stdout=sys.stderr)
    seconds = time.perf_counter() - start
    return seconds, [record for record in Store(folder / "cost").records() if record.measure == "latency"]


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """One cell by the plain script, with the seconds that its process took."""
    start = time.perf_counter()
    words = [sys.executable, "-m", "tests.benchmarks.plain", json.dumps(fields)]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return {**json.loads(answer.stdout), "wall_s": time.perf_counter() - start}


def cells() -> list[dict[str, Any]]:
    """The fields that the plain script needs, of every cell of the matrix."""
    from bench import catalogue

    names = ("backbone", "patch", "head", "height", "width", "batch", "threads")
    found = [cell.part(names) for cell, _ in matrix.load(str(MATRIX)).cells(describe())]
    return [{**one, "classes": CLASSES[catalogue.get("heads", one["head"]).facts["task"]]} for one in found]


def found_half(pairs: list[tuple[float, float]]) -> float:
    """Half of the 95 % interval of one median in per cent, from medians that were taken twice.

    The difference of two has a standard deviation of sqrt(2) times that of one, and the median of its size is 0.6745 of
    it (of a normal distribution).
    """
    moved = median(abs(math.log(second / first)) for first, second in pairs)
    return 100 * 1.96 * moved / 0.6745 / math.sqrt(2)


def report(
    seconds: float,
    records: list[Record],
    again: list[Record],
    runs: list[dict[str, Any]],
    seconds_plain: float,
) -> str:
    """Markdown from what both took and found."""
    good = [record for record in records if record.status == "ok"]
    halves = [float(record.values["latency_ci_pct"]) for record in good]  # pyright: ignore[reportArgumentType]
    floors = sorted({float(record.values["noise_floor_pct"]) for record in good})  # pyright: ignore[reportArgumentType]
    first = [run["runs"][0] for run in runs]
    claimed = [100 * interval(run["samples_ms"]).half for run in first]
    twice = [run["runs"] for run in runs if len(run["runs"]) == 2]
    later = {record.key: record for record in again if record.status == "ok"}
    both = [(record, later[record.key]) for record in good if record.key in later]
    pairs = [(float(a.values["latency_ms"]), float(b.values["latency_ms"])) for a, b in both]  # pyright: ignore[reportArgumentType]
    pairs_plain = [(median(a["samples_ms"]), median(b["samples_ms"])) for a, b in twice]
    held = sum(_overlap(_rounds(a), _rounds(b)) for a, b in both)
    held_plain = sum(_overlap(a["samples_ms"], b["samples_ms"]) for a, b in twice)
    found, found_plain = found_half(pairs), found_half(pairs_plain)
    total = {name: sum(run[name] for run in first) for name in ("import_s", "build_s", "iterate_s", "wall_s")}
    active = sum(record.wall_s for record in good)
    timed = sum(sum(record.samples[name]) for record in good for name in record.samples if _is_time(name)) / 1e3
    ended = sum(record.values["latency_ended"] == "target" for record in good)
    cheap = seconds_plain >= 3 * seconds
    stated = median(halves) <= median(claimed)
    lines = [
        "# What sixty latencies cost",
        "",
        "`python -m tests.benchmarks.cost FOLDER` on " + describe().title() + ".",
        "",
        "| | densebench | plain script |",
        "| --- | ---: | ---: |",
        f"| cells with a number | {len(good)} | {len(runs)} |",
        f"| wall time (s) | {seconds:.0f} | {seconds_plain:.0f} |",
        f"| half of the 95 % CI as stated, median over cells (%) | {median(halves):.1f} | {median(claimed):.1f} |",
        f"| run again: cells | {len(pairs)} | {len(pairs_plain)} |",
        f"| run again: stated intervals that overlap | {held} | {held_plain} |",
        f"| half of the 95 % CI as found by running again (%) | {found:.1f} | {found_plain:.1f} |",
        "",
        f"At least 3 times less: {_yes(cheap)}. At an equal or narrower interval: as each states its own {_yes(stated)}, "
        f"as found by running again {_yes(found <= found_plain)}.",
        "",
        f"The plain script takes {seconds_plain / seconds:.1f} times as long. Its seconds: "
        f"import {total['import_s']:.0f}, build {total['build_s']:.0f}, iterate {total['iterate_s']:.0f}, "
        f"start and end of its processes {total['wall_s'] - sum(total[n] for n in ('import_s', 'build_s', 'iterate_s')):.0f}.",
        "",
        f"Of densebench's {seconds:.0f} s, {active:.0f} s are the cells' own: {timed:.0f} s of timed calls that are kept "
        "(forward pass, backbone, head, decoding and image to prediction; the plain script times the forward pass alone), "
        "the rest of them building, comparing with eager float32, warming up and settling. The remaining "
        f"{seconds - active:.0f} s are the import of torch, once, the limits of the machine, and the anchors that the "
        f"noise floor comes from. {ended} of {len(good)} cells reached the target of 1 %, the others used their budget.",
        "",
        "The two stated intervals do not mean the same. densebench's is made of rounds that are spread over the time of a "
        "group; the plain script's of 40 passes that follow each other in one process within a second or two, and it "
        "knows nothing of the next process. So both were run again: the interval found is 1.96 standard deviations of one "
        "median, estimated from the median change between the two runs. densebench says of itself that it cannot tell "
        f"less than {floors[0]:.1f} to {floors[-1]:.1f} % apart (noise floors of its groups), which concerns cells of one "
        "run: these share the machine's weather, and two runs do not.",
    ]
    return "\n".join([*lines, ""])


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def _rounds(record: Record) -> list[float]:
    return list(rounds_of(record.samples, "latency_ms").values())


def _overlap(first: list[float], second: list[float]) -> bool:
    one, other = interval(first), interval(second)
    return one.low <= other.high and other.low <= one.high


def _is_time(name: str) -> bool:
    return name.endswith("_ms") and not name.startswith(("anchor", "twin"))


def main(folder: Path) -> None:
    """Measure both and print the report."""
    seconds, records = ours(folder)
    (folder / "again").mkdir(exist_ok=True)
    runs: list[dict[str, Any]] = []
    start = time.perf_counter()
    for fields in cells():
        runs.append({"cell": fields, "runs": [plain(fields)]})
        sys.stderr.write(f"plain {len(runs)}: {fields['backbone']} {fields['head']} {fields['height']}\n")
    seconds_plain = time.perf_counter() - start
    _, again = ours(folder / "again")
    for run in runs[::AGAIN]:
        run["runs"].append(plain(run["cell"]))
    (folder / "plain.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
    sys.stdout.write(report(seconds, records, again, runs, seconds_plain))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
