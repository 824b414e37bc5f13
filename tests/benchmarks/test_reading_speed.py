"""How long reading thousands of records takes; the aim is less than a second, without torch or pandas."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report.compare import compare
from bench.report.rows import read
from bench.report.tables import report
from tests.bench.records import make, matrix, small_catalogue, write

_RECORDS = 5000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reading")
    with small_catalogue(folder / "catalogue"):
        # 12 cells a backbone, 5 records a cell.
        write(folder / "results" / "box", matrix(84, seeds=2)[:_RECORDS])
        yield folder / "results"


def test_report(benchmark: Any, results: Path) -> None:
    done = benchmark.pedantic(lambda: report(results, check=True), rounds=3)
    assert len(done.differing) == 6


def test_compare(benchmark: Any, results: Path) -> None:
    found = benchmark.pedantic(lambda: compare(results).as_json(), rounds=3)
    assert sum(len(section["rows"]) for section in found) == 1000


def test_a_group_of_thousands_is_joined_in_time(benchmark: Any, tmp_path: Path) -> None:
    """All records of one backbone, head and size: the join must not compare every pair."""
    with small_catalogue(tmp_path / "catalogue"):
        records = [make("accuracy", miou=1.0), make("complexity", params_m=1.0)]
        for batch in range(1, _RECORDS // 2):
            records += [make("latency", batch=batch, latency_ms=1.0), make("memory", batch=batch, peak_mib=1.0)]
        folder = write(tmp_path / "box", records)
        reading = benchmark.pedantic(lambda: read(folder), rounds=2)
    assert [len(table.rows) for table in reading.tables] == [_RECORDS // 2 - 1]


def test_reading_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, bench.report.rows, bench.report.tables, bench.report.compare, bench.report.figure;"
        "sys.exit(', '.join({'torch', 'pandas', 'timm', 'matplotlib', 'rich'} & set(sys.modules)) or 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
