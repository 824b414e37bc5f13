"""Every architecture of timm under three heads at two sizes, on the meta device: which work, and why the others not.

``python tests/sweep/timm_sweep.py`` goes on where it was cut off, a line of ``results/sweep/timm.csv`` an architecture,
and ends with the summary ``timm.md`` and the file of names ``backbones/timm_zoo.json``. ``--table`` writes these two
alone; ``--again`` asks the ones that did not work once more.
"""

import argparse
import csv
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.contract import Head

ROOT = Path(__file__).resolve().parent.parent.parent
CSV = ROOT / "results" / "sweep" / "timm.csv"
TABLE = CSV.with_suffix(".md")
NAMES = ROOT / "backbones" / "timm_zoo.json"
HEADS = ("linear", "upernet", "fcos")
READER = "upernet"
"""The head that reads every level of a backbone; the whole model runs under it, the others get the same maps."""
SIZES = ((512, 512), (384, 640))
CLASSES = 150
TIMEOUT = 600
"""Seconds for one architecture."""
STATUS = tuple(f"{height}x{width} {head}" for height, width in SIZES for head in HEADS)
COLUMNS = ("architecture", "family", "timm", "patch", "divisor", "strides", "channels", "params_m", *STATUS)

Row = dict[str, str]


def examine(name: str) -> Row:
    """One line: how ``timm:NAME`` fares at each size under each head."""
    import timm
    import torch

    from backbones import timm_plan, timm_zoo

    row = dict.fromkeys(COLUMNS, "")
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    row.update(architecture=name, family=family, timm=timm.__version__)
    with torch.device("meta"), torch.no_grad(), timm_plan.NoDraws():
        row["patch"] = str(timm_zoo.facts(name)["patch"])
        for size in SIZES:
            row.update(_at(name, size, int(row["patch"])))
    return row


def _at(name: str, size: tuple[int, int], patch: int) -> Row:
    import torch

    import bench
    from backbones.contract import Unsupported
    from bench import catalogue
    from heads.contract import reads

    columns = [f"{size[0]}x{size[1]} {head}" for head in HEADS]
    try:
        model = bench.build(f"timm:{name}", READER, patch=patch, size=size, classes=CLASSES, padding="pad").eval()
    except Unsupported as error:
        return dict.fromkeys(columns, f"unsupported: {error}")
    body = model.backbone
    seen: list[tuple] = []
    body.register_forward_hook(lambda module, args, maps: seen.append(maps))
    model(torch.empty(1, 3, *size))
    (maps,) = seen
    wanted = [(1, level.channels, body.size[0] // level.stride, body.size[1] // level.stride) for level in body.levels]
    assert [tuple(one.shape) for one in maps] == wanted, f"maps {[tuple(one.shape) for one in maps]} are not {wanted}"
    for head in set(HEADS) - {READER}:
        read = reads(body.levels, catalogue.get("heads", head).facts.get("reads", "all"))
        under(head, tuple(body.levels[index] for index in read), body.size)
    good = "ok" if body.size == size else f"ok padded to {body.size[0]}x{body.size[1]}"
    return dict.fromkeys(columns, good) | {
        "divisor": str(body.divisor),
        "params_m": f"{sum(parameter.numel() for parameter in body.parameters()) / 1e6:.2f}",
        "strides": " ".join(str(level.stride) for level in body.levels),
        "channels": " ".join(str(level.channels) for level in body.levels),
    }


@cache
def under(head: str, levels: tuple, size: tuple[int, int]) -> None:
    """Run a head on maps of these levels: all that it knows of a backbone, so one run serves all that have them."""
    import torch

    top = _head(head, levels)
    maps = tuple(torch.empty(1, one.channels, size[0] // one.stride, size[1] // one.stride) for one in levels)
    top(maps, size)


@cache
def _head(head: str, levels: tuple) -> "Head":
    from bench import catalogue

    return catalogue.get("heads", head).load().build(head, levels=levels, classes=CLASSES).eval()


def _work(connection: Connection) -> None:
    """A worker: names in, lines out."""
    import torch

    torch.set_num_threads(1)
    while True:
        name = connection.recv()
        try:
            row = examine(name)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a line of the table
            row = dict.fromkeys(COLUMNS, "")
            row.update(architecture=name, **failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        connection.send(row)


def failed(reason: str) -> Row:
    """The status columns of an architecture that could not be examined."""
    return dict.fromkeys(STATUS, f"error: {reason}")


def sweep(  # noqa: C901 - one loop over the workers
    names: Iterable[str], workers: int = 2, timeout: float = TIMEOUT
) -> Iterator[Row]:
    """Lines as they come, from ``workers`` processes; one that takes too long is ended and started anew."""
    context = multiprocessing.get_context("spawn")
    todo = iter(names)
    busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, str, float]] = {}

    def start() -> tuple[Connection, multiprocessing.process.BaseProcess]:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there,), daemon=True)
        process.start()
        there.close()
        return here, process

    def give(connection: Connection, process: multiprocessing.process.BaseProcess) -> None:
        name = next(todo, None)
        if name is None:
            process.terminate()
            process.join()
            connection.close()
            return
        connection.send(name)
        busy[connection] = (process, name, time.monotonic() + timeout)

    for _ in range(workers):
        give(*start())
    while busy:
        for connection in wait(list(busy), timeout=1):
            process, name, _ = busy.pop(connection)
            try:
                row = connection.recv()
            except EOFError:
                process.join()
                yield dict.fromkeys(COLUMNS, "") | {"architecture": name} | failed(f"process ended, {process.exitcode}")
                give(*start())
            else:
                yield row
                give(connection, process)
        for connection, (process, name, deadline) in list(busy.items()):
            if time.monotonic() > deadline:
                del busy[connection]
                process.kill()
                process.join()
                yield dict.fromkeys(COLUMNS, "") | {"architecture": name} | failed(f"longer than {timeout:.0f} s")
                give(*start())


def read(path: Path = CSV) -> list[Row]:
    """The lines there are, one for each architecture (the last one), sorted by name."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["architecture"]: row for row in csv.DictReader(file)}
    return [rows[name] for name in sorted(rows)]


def write(rows: Iterable[Row], path: Path = CSV) -> None:
    """All lines, sorted by name."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["architecture"]))


def complete(names: Iterable[str], version: str, path: Path = CSV, workers: int = 2) -> list[Row]:
    """Examine what has no line of this timm version yet, a flushed line each; then sort the file."""
    done = {row["architecture"] for row in read(path) if row["timm"] == version}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in sweep((name for name in names if name not in done), workers):
            row["timm"] = row["timm"] or version
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
    rows = read(path)
    write(rows, path)
    return rows


def works(row: Row) -> bool:
    """Whether all heads worked at all sizes."""
    return all(row[column].startswith("ok") for column in STATUS)


def working(rows: Iterable[Row]) -> set[str]:
    """Architectures that work under all heads at all sizes."""
    return {row["architecture"] for row in rows if works(row)}


def summary(rows: list[Row]) -> str:
    """The table in Markdown, a function of the lines alone."""
    rows = sorted(rows, key=lambda row: row["architecture"])
    versions = ", ".join(sorted({row["timm"] for row in rows}))
    text = [
        f"# Every architecture of timm {versions} as a backbone",
        "",
        "Built on the meta device (shapes without numbers) and run under each head, `pytest -m sweep tests/sweep`;",
        "one line an architecture in `timm.csv`. A size that an architecture cannot take is padded to the next that it",
        "can.",
        "",
        f"{len(working(rows))} of {len(rows)} architectures work under all {len(HEADS)} heads at both sizes.",
        "",
        "| size | head | works as it is | works padded | does not work |",
        "|---|---|---:|---:|---:|",
    ]
    for column in STATUS:
        size, head = column.split(" ")
        plain = sum(row[column] == "ok" for row in rows)
        padded = sum(row[column].startswith("ok padded") for row in rows)
        text.append(f"| {size} | {head} | {plain} | {padded} | {len(rows) - plain - padded} |")
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    text += ["", "## By family", "", "| family | architectures | work | of these padded |", "|---|---:|---:|---:|"]
    for family, members in sorted(families.items()):
        good = [row for row in members if works(row)]
        padded = sum(any(row[column].startswith("ok padded") for column in STATUS) for row in good)
        text.append(f"| {family or '-'} | {len(members)} | {len(good)} | {padded} |")
    text += ["", "## What does not work", ""]
    bad = [row for row in rows if not works(row)]
    if not bad:
        text.append("Everything works.")
    for row in bad:
        reasons: dict[str, list[str]] = {}
        for column in STATUS:
            if not row[column].startswith("ok"):
                reasons.setdefault(row[column], []).append(column)
        where = "; ".join(f"{', '.join(columns)}: {reason}" for reason, columns in reasons.items())
        text.append(f"- `{row['architecture']}`: {where}")
    return "\n".join(text) + "\n"


def names_file(rows: Iterable[Row]) -> str:
    """The text of ``backbones/timm_zoo.json``: patch and default tag of every architecture, a line each, by name."""
    from backbones import timm_zoo

    lines = [
        f"{json.dumps(name)}: {json.dumps({'patch': int(patch), 'tag': timm_zoo.default_tag(name)})}"
        for name, patch in sorted((row["architecture"], row["patch"]) for row in rows)
        if patch
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="write the summary and the names alone")
    parser.add_argument("--again", action="store_true", help="examine what did not work once more")
    parser.add_argument("--only", nargs="*", help="examine these, whether or not they have a line")
    chosen = parser.parse_args()
    if not chosen.table:
        import timm

        again = set(chosen.only or ())
        if chosen.again:
            again |= {row["architecture"] for row in read() if not works(row)}
        if again:
            write(row for row in read() if row["architecture"] not in again)
        complete(timm.list_models(), timm.__version__, workers=chosen.workers)
    TABLE.write_text(summary(read()), encoding="utf-8")
    NAMES.write_text(names_file(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
