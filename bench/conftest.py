"""``pytest bench --matrix NAME``: a matrix's latency cells as pytest-benchmark tests.

For people who live in pytest: ``--benchmark-save``, ``--benchmark-compare``, ``--benchmark-compare-fail=median:5%`` and
``--benchmark-histogram`` work as they know them, and ``-k vit_pico`` chooses cells. Timed is the callable that measure
``latency`` times. What it has not: rounds in turns, a noise floor, a process a cell. Two models that ran minutes apart
are compared across whatever the machine did in between, so trust differences between *runs* of one cell here and those
between cells to `densebench run`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench import run
from bench.errors import UserError
from bench.launchers.contract import Job
from bench.plan import matrix as matrices
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.plan.measure import measures

if TYPE_CHECKING:
    from pathlib import Path

    from bench.plan.cell import Cell


def pytest_addoption(parser: pytest.Parser) -> None:
    """The matrix, where its data lies, and axes instead of the matrix's own."""
    group = parser.getgroup("densebench")
    group.addoption("--matrix", metavar="NAME", help="time the latency cells of this matrix (a name, or a .toml file)")
    group.addoption("--data-root", action="append", default=[], help="folder of a data set, or of several")
    group.addoption(
        "--axis",
        action="append",
        default=[],
        metavar="AXIS=VALUE[,VALUE]",
        help="values instead of the matrix's own, e.g. --axis backbone=vit_tiny,swin_tiny; may be repeated",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Timing is one process, and is on: a project's own options may distribute tests and switch benchmarks off."""
    if config.getoption("matrix", None):
        config.option.benchmark_disable = False
        if hasattr(config.option, "numprocesses"):  # pytest-xdist is there
            config.option.numprocesses, config.option.dist = 0, "no"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known wherever this is run from."""
    config.addinivalue_line("markers", "gpu: needs a GPU; skipped with a reason where there is none")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each latency that the matrix asks for."""
    if "cell" not in metafunc.fixturenames:
        return
    name = metafunc.config.getoption("matrix")
    if not name:
        raise pytest.UsageError("bench/test_latency.py times a matrix: name one with --matrix NAME")
    try:
        axes, folders = metafunc.config.getoption("axis") or [], metafunc.config.getoption("data_root") or []
        jobs = _jobs(name, axes, folders)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    marks = [[] if job.cell.device == "cpu" else [pytest.mark.gpu] for job in jobs]
    parameters = [
        pytest.param(job.cell, job.root, id=job.cell_title().replace(" ", "-"), marks=mark)
        for job, mark in zip(jobs, marks, strict=True)
    ]
    metafunc.parametrize(("cell", "root"), parameters)


def _jobs(name: str, axes: list[str], folders: list[str]) -> list[Job]:
    """The distinct latencies of a matrix, in its order.

    Raises:
        UserError: no such matrix, a wrong axis or value, or a data set that is not found.
    """
    given: dict[str, list[str]] = {}
    for text in axes:
        axis, equals, values = text.partition("=")
        if not equals or axis not in matrices.AXES:
            raise UserError(f"--axis {text}: AXIS=VALUE[,VALUE] is wanted, with one of {', '.join(matrices.AXES)}")
        given.setdefault(axis, []).extend(values.split(","))
    latency, roots = measures()["latency"], Roots(folders)
    found: dict[str, tuple[Cell, Path | None]] = {}
    for cell, names in matrices.load(name).override(given).cells(describe()):
        if latency.name in names:
            dataset, root = roots.resolve(cell.dataset)
            named = replace(cell, dataset=dataset)
            found.setdefault(str(named.part(latency.fields)), (named, root))
    cells = [cell for cell, _ in found.values()]
    vary = run.varying(cells)
    return [Job(latency, cell, root, key, vary) for key, (cell, root) in found.items()]
