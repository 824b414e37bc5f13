"""Order, threads and devices of the whole suite."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes in signatures are checked while tests run, and only then: `pytest bench` must not time the checks.
_CHECKED = [f"bench.training.{name}" for name in ("loader", "predict", "series", "train", "views")]
install_import_hook(["backbones", "heads", *_CHECKED], "beartype.beartype")

# Before torch is imported: the tests' tensors are tiny, and more threads only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


HIDDEN = "DENSEBENCH_TESTS_HIDE_GPUS"
"""Set in processes whose GPUs are hidden already."""
NO_GPU = """#!/bin/sh
case "$*" in *--query-gpu*) exit 0 ;; esac
echo "No devices were found"
exit 6
"""
"""nvidia-smi on a machine without a GPU."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs: tests are of a CPU, and the same wherever they run. `-m gpu` and races that are timed see them."""
    asked = re.search(r"(?<!not )\bgpu\b", config.option.markexpr or "")
    wanted = asked or getattr(config.option, "benchmark_enable", False)
    if wanted or os.environ.get(HIDDEN):
        return
    os.environ[HIDDEN] = "1"  # workers and children inherit it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if shutil.which("nvidia-smi"):
        folder = Path(tempfile.mkdtemp(prefix="densebench-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        tool = folder / "nvidia-smi"
        tool.write_text(NO_GPU, encoding="ascii")
        tool.chmod(0o755)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


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
            hidden = " (they are hidden but from -m gpu)" if os.environ.get(HIDDEN) else ""
            pytest.skip(f"needs a GPU, and torch {torch.__version__} sees none on this machine{hidden}")
