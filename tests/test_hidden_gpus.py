"""The suite is that of a CPU wherever it runs: on a machine with a GPU its tests see none, but for those that ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HIDDEN

H100 = """#!/bin/sh
case "$*" in
  *query-gpu=name*) echo "NVIDIA H100 80GB HBM3" ;;
  *query-gpu=*) echo "550.54.15, 81559" ;;
  *) echo "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |" ;;
esac
"""
LOOKS = """
import os, subprocess
from bench.plan.environment import describe

def listed():
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout

def test_it_is_seen():
    assert "H100" in listed()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ

def test_it_is_hidden():
    found = describe()
    assert (listed(), found.gpus, found.driver, os.environ["CUDA_VISIBLE_DEVICES"]) == ("", [], "", "")
"""


@pytest.mark.parametrize(
    ("options", "name"), [([], "hidden"), (["-m", "not gpu"], "hidden"), (["-m", "gpu or not slow"], "seen")]
)
def test_a_gpu_is_hidden_from_the_tests_that_do_not_ask_for_it(tmp_path, options, name):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(H100)
    tool.chmod(0o755)
    looking = tmp_path / "test_looks.py"
    looking.write_text(LOOKS)
    environment = {key: value for key, value in os.environ.items() if key not in (HIDDEN, "CUDA_VISIBLE_DEVICES")}
    environment |= {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
    here = Path(__file__).parents[1]
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "1",
        "--rootdir",
        str(here),
        "-c",
        str(here / "pyproject.toml"),
    ]
    # The suite's own conftest, of which a test outside of its folder knows nothing; what skips without a GPU is not it.
    words += ["-p", "tests.conftest", *options, f"{looking}::test_it_is_{name}"]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=here, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
