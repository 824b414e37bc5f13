"""Order and threads of the whole suite."""

import os

import pytest
from jaxtyping import install_import_hook

# Shapes in signatures are checked while tests run, and only then: `pytest bench` must not time the checks.
_CHECKED = [f"bench.training.{name}" for name in ("loader", "predict", "series", "train", "views")]
install_import_hook(["backbones", "heads", *_CHECKED], "beartype.beartype")

# Before torch is imported: the tests' tensors are tiny, and more threads only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of a GPU are skipped where there is none, and races with other libraries where nothing is timed."""
    race = item.get_closest_marker("benchmark")
    if race is not None and race.kwargs["group"].startswith("against ") and not item.config.option.benchmark_enable:
        pytest.skip("a race is run with --benchmark-enable; the same calls are compared by the test of equality")
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.accelerator.is_available():
            pytest.skip(f"needs a GPU, and torch {torch.__version__} sees none on this machine")
