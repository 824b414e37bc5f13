"""The race of two models itself, which the default run leaves to ``--benchmark-enable``."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from tests.benchmarks.peers import Pair, race


@pytest.mark.parametrize("enabled", [True, False])
def test_a_race_says_how_many_times_as_fast_ours_is(monkeypatch: Any, enabled: Any) -> None:
    benchmark = SimpleNamespace(enabled=enabled, pedantic=lambda *_, **__: None, extra_info={})
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def lasting(seconds: float) -> Any:
        def run(_: Any) -> list[Any]:
            clock[0] += seconds
            return []

        return run

    pair = Pair("a pair", lasting(0.5), lasting(1.0), (nn.Linear(2, 1), nn.Linear(2, 2)), (8, 8))
    race(benchmark, pair, (8, 8))
    found = benchmark.extra_info
    assert found["speed"] == 2.0
    assert found["speed_quartiles"] == [2.0, 2.0]
    assert (found["ours_ms"], found["theirs_ms"]) == (500.0, 1000.0)
    assert found["rounds"] == (9 if enabled else 1)
    assert found["parameters"] == [3, 6]
