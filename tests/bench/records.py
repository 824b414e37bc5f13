"""Synthetic records, and a catalogue of a few small measures and heads that they belong to."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import catalogue
from bench.plan.environment import Environment
from bench.plan.measure import measures
from bench.report import choosing, known, rows
from bench.store.record import Record
from bench.store.store import ENVIRONMENTS, RECORDS

CELL = {
    "backbone": "vit_pico",
    "patch": 16,
    "weights": "random",
    "head": "linear",
    "height": 128,
    "width": 128,
    "batch": 8,
    "dtype": "fp32",
    "compile": "none",
    "attention": "auto",
    "device": "cpu",
    "threads": 1,
    "dataset": "scenes",
    "recipe": "short",
    "seed": 0,
}
_STATIC = ["backbone", "patch", "weights", "head", "height", "width", "dataset"]
_TIMED = [*_STATIC, "batch", "dtype", "compile", "attention", "device", "threads"]
_FIELDS = {
    "accuracy": [*_STATIC, "dtype", "attention", "recipe", "seed"],
    "complexity": _STATIC,
    "latency": _TIMED,
    "memory": _TIMED,
    "turns": _TIMED,
}
_COLUMNS: dict[str, list[dict[str, Any]]] = {
    "accuracy": [
        {"name": "pixels", "unit": "%", "title": "pixel accuracy", "better": "higher", "task": "segmentation"},
        {"name": "miou", "unit": "%", "title": "mIoU", "better": "higher", "task": "segmentation", "headline": True},
        {"name": "class_iou", "unit": "%", "title": "IoU", "better": "higher", "table": False},
        {"name": "ap", "unit": "%", "title": "AP", "better": "higher", "task": "detection", "headline": True},
    ],
    "complexity": [
        {"name": "params_m", "unit": "M", "title": "params", "better": "lower", "digits": 2},
        {"name": "tokens", "unit": "", "title": "tokens", "better": None, "digits": 0},
    ],
    "latency": [
        {"name": "latency_ms", "unit": "ms", "title": "latency", "better": "lower", "digits": 1},
        {"name": "images_per_s", "unit": "1/s", "title": "images/s", "better": "higher", "digits": 1},
    ],
    "memory": [{"name": "peak_mib", "unit": "MiB", "title": "peak memory", "better": "lower", "digits": 0}],
    "turns": [
        {"name": "turn_ms", "unit": "ms", "title": "turn", "better": "lower", "digits": 1},
        {"name": "turn_ci_pct", "unit": "%", "title": "CI", "better": "lower", "digits": 1},
        {"name": "part_ms", "unit": "ms", "title": "part", "better": "lower", "digits": 1},
        {"name": "noise_floor_pct", "unit": "%", "title": "floor", "table": False},
    ],
}
_INTERLEAVED = {"turns": "turn_ms"}
_HEADS = {"linear": "segmentation", "upernet": "segmentation", "fcos": "detection"}


def make(measure: str, status: str = "ok", environment: str = "here", **given: Any) -> Record:
    """A record of a measure at `CELL`; what is given replaces fields of the cell, or is a value."""
    cell = CELL | {name: given.pop(name) for name in list(given) if name in CELL}
    others = {name: given.pop(name) for name in ("inputs", "reason", "version", "samples") if name in given}
    return Record(
        measure=measure,
        fields={name: cell[name] for name in _FIELDS.get(measure, _STATIC)},
        environment=environment,
        status=status,
        values=given,
        **({"version": 1, "inputs": {}} | others),
    )


def environment(name: str, comparable: str = "", cpu: str = "Test CPU") -> Environment:
    """An environment of this id."""
    return Environment(
        id=name,
        comparable=comparable or name,
        cpu=cpu,
        cores=2,
        memory_gib=8.0,
        gpus=[],
        dtypes=["fp32"],
        variables={},
        system="Linux x86_64",
        python="3.11",
        packages={"torch": "2.0"},
        git=f"git-{name}",
    )


def write(folder: Path, records: Iterable[Record], environments: Iterable[Environment] = ()) -> Path:
    """A machine's folder with these records; the environment ``here`` is described by default."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS).write_text("".join(record.line() for record in records), encoding="utf-8")
    described = list(environments) or [environment("here")]
    lines = "".join(json.dumps(vars(item)) + "\n" for item in described)
    (folder / ENVIRONMENTS).write_text(lines, encoding="utf-8")
    return folder


def matrix(backbones: int, *, seeds: int = 1) -> list[Record]:
    """Records of all four measures for a number of backbones, at two patch sizes, two input sizes and three heads."""
    found: list[Record] = []
    for index in range(backbones):
        for patch in (8, 16):
            for size in (128, 256):
                for place, (head, task) in enumerate(_HEADS.items()):
                    cell: dict[str, Any] = {
                        "backbone": f"vit_{index}",
                        "patch": patch,
                        "height": size,
                        "width": size,
                        "head": head,
                    }
                    latency = (5 + index % 7) * size / patch + place
                    score = 30 + index % 11 - patch / 4 + place
                    found += [
                        make("complexity", **cell, params_m=1.0 + index / 8, tokens=(size // patch) ** 2),
                        make("latency", **cell, latency_ms=latency, images_per_s=8000 / latency),
                        make("memory", **cell, peak_mib=latency / 2),
                    ]
                    for seed in range(seeds):
                        name = "miou" if task == "segmentation" else "ap"
                        classes = {"disc": score, "ring": 0.0, "stroke": None}
                        values: dict[str, Any] = {name: score + seed / 2, "class_iou": classes}
                        found.append(make("accuracy", **cell, seed=seed, **values))
    return found


@contextmanager
def small_catalogue(folder: Path) -> Iterator[None]:
    """Within it the catalogue knows the heads and measures of this file only, as files in a folder."""
    for kind in ("data", "heads", "measures"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    heads = {name: {"task": task} for name, task in _HEADS.items()}
    (folder / "heads" / "some.py").write_text(f'"""Heads."""\nCATALOGUE = {heads!r}\n', encoding="utf-8")
    for name, columns in _COLUMNS.items():
        facts = {"version": 1, "fields": _FIELDS[name], "exclusive": False, "seconds": 1.0, "columns": columns}
        if name in _INTERLEAVED:
            facts["interleaved"] = _INTERLEAVED[name]
        text = f'"""What {name} means."""\nCATALOGUE = { ({name: facts})!r}\n'
        (folder / "measures" / f"{name}.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        kinds = {kind: (f"some.{kind}", folder / kind) for kind in ("data", "heads", "measures")}
        patch.setattr("bench.catalogue._FOLDERS", kinds)
        forget()
        yield
    forget()


def forget() -> None:
    """Have the catalogue look at its folders again."""
    catalogue._read_all.cache_clear()
    measures.cache_clear()
    for remembered in (rows.columns, rows._owners, rows._limiting, known.timed):
        remembered.cache_clear()
    choosing.column_of.cache_clear()
