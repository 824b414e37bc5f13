"""Order and threads of the whole suite."""

import os

import pytest

# Before torch is imported: the tests' tensors are tiny, and more threads only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
