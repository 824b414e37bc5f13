"""``pytest bench --matrix NAME``, run as its users do."""

import json
import os
import subprocess
import sys

import pytest

from bench.catalogue import ROOT

MATRIX = """
question = "Which?"
[[grid]]
measure = ["latency", "complexity"]
backbone = ["vit_pico", "hybrid_pico"]
resolution = 32
head = "linear"
seed = [0, 1]
[[grid]]
measure = ["memory"]
backbone = "swin_pico"
resolution = 64
head = "linear"
"""


def run(*words, cwd):
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "DENSEBENCH_CACHE": str(cwd / "cache")}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", str(ROOT / "bench"), "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_latency_cells_are_benchmarks(tmp_path):
    (tmp_path / "mine.toml").write_text(MATRIX)
    short = ("--benchmark-max-time=0.05", "--benchmark-json=saved.json", "-rs")
    done = run("--matrix", "mine.toml", "--axis", "device=cpu,xpu", *short, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 2 skipped" in done.stdout, "seeds are no second latency, and memory is none"
    assert "device xpu is wanted and torch" in done.stdout
    saved = json.loads((tmp_path / "saved.json").read_text())["benchmarks"]
    assert {one["extra_info"]["backbone"] for one in saved} == {"vit_pico", "hybrid_pico"}
    assert {one["group"] for one in saved} == {"linear 32x32 batch 1 fp32 on cpu"}
    assert all(one["stats"]["median"] > 0 and one["extra_info"]["deviation"] == 0 for one in saved)


@pytest.mark.slow
def test_a_wrong_matrix_says_what_there_is(tmp_path):
    done = run("--matrix", "defualt", cwd=tmp_path)
    assert done.returncode != 0
    assert "did you mean default" in done.stdout + done.stderr
