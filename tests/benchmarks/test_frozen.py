"""Kept features of a frozen backbone, beside end-to-end trainings of the same heads, in one run.

``pytest tests/benchmarks/test_frozen.py --benchmark-enable -n 0``
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import frozen
from tests.benchmarks.pipeline import opened, write_photographs


def test_four_heads(benchmark: Any, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    real = benchmark.enabled
    data = opened(write_photographs(tmp_path / "photographs", count=16 if real else 4), keep=True)
    small = {} if real else {"backbone": "vit_pico", "size": (32, 48), "passes": 2}
    try:
        found = benchmark.pedantic(
            lambda: frozen.turn(data, tmp_path / "features", **small), rounds=1, iterations=1, warmup_rounds=0
        )
    finally:
        torch.set_num_threads(threads)
    for one, other in found.losses.values():
        assert one == pytest.approx(other, rel=1e-5), "either way the head learns the same"
    benchmark.extra_info["times cheaper"] = found.ratio()
    if real:
        assert found.ratio() > frozen.WANTED
    assert "times cheaper" in frozen.report([found], len(data))
