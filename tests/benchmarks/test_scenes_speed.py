"""How fast scenes are rendered and read back; one round is one image."""

from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.data import scenes


def quickest(benchmark: BenchmarkFixture) -> float:
    """Seconds of the quickest round, which a busy machine disturbs least; 0 where nothing is timed."""
    timed = cast("Any", benchmark).stats
    return float(timed.stats.min) if timed else 0.0


@pytest.mark.parametrize("side", [64, 128, 256])
def test_render(benchmark: BenchmarkFixture, side: int) -> None:
    index = count()
    scenes._render("train", 0, (side, side))

    def render() -> None:
        scenes._render("train", next(index) % 2000, (side, side))

    benchmark.pedantic(render, rounds=200)
    assert quickest(benchmark) < {64: 0.003, 128: 0.004, 256: 0.01}[side]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.load("scenes", task="segmentation", root=None, cache=folder, split="val").sample(0, (128, 128))
    return folder


def test_open_cached_split(benchmark: BenchmarkFixture, folder: Path) -> None:
    def read_first() -> None:
        scenes.load("scenes", task="segmentation", root=None, cache=folder, split="val").sample(0, (128, 128))

    benchmark.pedantic(read_first, rounds=50)
    assert quickest(benchmark) < 0.01


def test_read_cached_sample(benchmark: BenchmarkFixture, folder: Path) -> None:
    dataset = scenes.load("scenes", task="detection", root=None, cache=folder, split="val")
    index = count()

    def read() -> int:
        return int(np.size(dataset.sample(next(index) % 200, (128, 128)).image))

    benchmark.pedantic(read, rounds=200)
    assert quickest(benchmark) < 0.002
