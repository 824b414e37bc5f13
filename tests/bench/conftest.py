"""Fixtures of the tests of the harness."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.records import small_catalogue


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Path]:
    """Folder of a catalogue of four small measures and three heads, in force during the test."""
    folder = tmp_path / "catalogue"
    with small_catalogue(folder):
        yield folder
