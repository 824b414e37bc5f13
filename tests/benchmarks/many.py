"""A results folder of any number of records, for benchmarks: drawn from a seed, in the shape that runs write.

Every cell has a count, a time in rounds (sessions of sixteen with an anchor and a twin), a memory and a training; times
and accuracies follow size and depth with noise of a few percent, so that fronts and ties are as in real tables.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.launchers.contract import anchor_digest
from bench.plan.environment import describe
from bench.plan.measure import measures
from bench.store.record import Record, question
from bench.store.store import ENVIRONMENTS, RECORDS

SESSION = 16
ROUNDS = 24
LOSSES = 150
MEASURES = ("complexity", "latency", "memory", "accuracy")
_HEADS = ("linear", "linear_bn", "upernet", "segmenter", "fcos", "faster_rcnn")
_DATA = ("camvid", "ade20k", "scenes")


def write(results: Path, records: int, *, seed: int = 0) -> Path:
    """Write a machine's folder of so many records (rounded up to whole cells); the folder."""
    folder = results / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    environment = describe()
    (folder / ENVIRONMENTS).write_text(json.dumps(asdict(environment)) + "\n", encoding="utf-8")
    drawn = random.Random(seed)
    cells = itertools.islice(_cells(), -(-records // len(MEASURES)))
    with (folder / RECORDS).open("w", encoding="utf-8") as file:
        for session in _batched(cells):
            for record in _session(session, drawn, environment.id):
                file.write(record.line())
    return folder


def _batched(cells: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
    while batch := tuple(itertools.islice(cells, SESSION)):
        yield batch


def _cells() -> Iterator[dict[str, Any]]:
    backbones = [name for name in catalogue.members("backbones", "timm:") if "vit_" in name or "swin_" in name]
    sizes = [64 * step for step in range(2, 12)]
    for patch, size, data, head, backbone, batch in itertools.product(
        (16, 32), sizes, _DATA, _HEADS, backbones, (1, 8)
    ):
        yield {
            "backbone": backbone, "patch": patch, "weights": "random", "head": head, "height": size, "width": size,
            "batch": batch, "dtype": "fp32", "compile": "none", "attention": "auto", "device": "cpu", "threads": 2,
            "dataset": data, "recipe": "short", "seed": 0, "window": "keep", "padding": "refuse",
            "memory_format": "contiguous", "resample": "pinv", "limit_mib": 0, "runtime": "torch", "quantise": "none",
        }  # fmt: skip


def _session(cells: tuple[dict[str, Any], ...], drawn: random.Random, environment: str) -> Iterator[Record]:
    weather = [math.exp(drawn.gauss(0, 0.05)) for _ in range(ROUNDS)]
    latency = measures()["latency"]
    first = {name: cells[0][name] for name in latency.fields}
    anchor = anchor_digest(question("latency", latency.version, first, {}))
    shared = {"session": f"{anchor}/1", "anchor": anchor, "cells": len(cells)}
    anchored = _times(_cost(cells[0]), weather, drawn)
    for cell in cells:
        for name in MEASURES:
            measure = measures()[name]
            values, samples = _outcome(name, cell, weather, drawn)
            if name == "latency":
                values |= shared
                samples |= {"anchor_ms": anchored, "anchor_ms_round": [float(index) for index in range(ROUNDS)]}
            fields = {field: cell[field] for field in measure.fields}
            inputs = {"levels": "normed"} if catalogue.normed(cell) else {}
            if measure.trains:
                inputs |= {f"{key} revision": str(now) for key, now in catalogue.training_revisions(cell).items()}
            yield Record(
                name, measure.version, fields, inputs, environment, "ok", "", values, samples, "2026-01-01", 1.0
            )


def _outcome(
    measure: str, cell: dict[str, Any], weather: list[float], drawn: random.Random
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    cost = _cost(cell)
    match measure:
        case "complexity":
            return {"params_m": 20 + cost % 7, "gmacs": cost / 9, "tokens": (cell["height"] // 16) ** 2}, {}
        case "memory":
            return {"peak_mib": 3 * cost}, {}
        case "latency":
            times = _times(cost, weather, drawn)
            middle = sorted(times)[ROUNDS // 2]
            values = {"latency_ms": middle, "latency_ci_pct": 4.0, "images_per_s": 1000 * cell["batch"] / middle}
            rounds = [float(index) for index in range(ROUNDS)]
            return values | {"noise_floor_pct": 2.0}, {"latency_ms": times, "latency_ms_round": rounds}
    worth = 60 * (1 - math.exp(-cost / cell["batch"] / 60)) + drawn.gauss(0, 1.5)
    task = catalogue.get("heads", cell["head"]).facts["task"]
    classes = {f"class {index}": max(0.0, worth + drawn.gauss(0, 9)) for index in range(11)}
    values = {"miou": worth, "class_iou": classes} if task == "segmentation" else {"ap": worth, "class_ap": classes}
    return values | {"train_s": 9 * cost}, {"loss": [3 * 0.99**step for step in range(LOSSES)]}


def _cost(cell: dict[str, Any]) -> float:
    """Milliseconds, of a backbone whose digits make it larger or smaller."""
    own = 0.5 + sum(map(ord, cell["backbone"])) % 97 / 40
    return own * cell["batch"] * (cell["height"] / 64) ** 2 * (1 + _HEADS.index(cell["head"]) / 5)


def _times(cost: float, weather: list[float], drawn: random.Random) -> list[float]:
    return [cost * factor * math.exp(drawn.gauss(0, 0.01)) for factor in weather]
