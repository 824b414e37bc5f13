"""What torch is asked before anything is planned, and what a user hears."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench import catalogue, devices
from bench.errors import UserError
from bench.plan import cards, matrix
from tests.bench import answering, smi
from tests.bench.smi import H100

TWO = {"GPU-aa00000000": H100, "GPU-ab00000000": H100}


@pytest.fixture
def box(tmp_path, monkeypatch):
    def put(found=TWO, visible=None, **options):
        monkeypatch.setenv("PATH", smi.put(tmp_path / "smi", found, **options))
        monkeypatch.delenv(cards.VISIBLE, raising=False)
        if visible is not None:
            monkeypatch.setenv(cards.VISIBLE, visible)
        return cards.look()

    return put


def seen(*names, **facts):
    """What torch says: `answering.seen`, as a function that another process can import."""
    return partial(answering.seen, names, facts)


def test_a_cpu_is_not_asked_for(box):
    def never(visible):
        raise AssertionError

    devices.require({"cpu"}, box(), respond=never)
    devices.require({"auto", "cpu"}, cards.Box(), respond=never)


def test_what_torch_has_is_fine_and_it_sees_the_cards_that_are_used(box):
    devices.require(
        {"auto", "cuda:1"}, box(), respond=seen("cuda:0", "cuda:1", visible="GPU-aa00000000,GPU-ab00000000")
    )
    devices.require({"auto"}, box(visible="1"), respond=seen("cuda:0", visible="GPU-ab00000000"))


@pytest.mark.parametrize(
    ("options", "torch", "telling"),
    [
        ({"cuda": "11.4"}, {}, "driver 580.1 is too old, it runs CUDA up to 11.4 and this torch is built for 13.2"),
        ({"visible": ""}, {}, "CUDA_VISIBLE_DEVICES is empty, which hides them all; unset CUDA_VISIBLE_DEVICES"),
        ({}, {"said": "no rights"}, "torch sees none, while nvidia-smi sees 2 GPUs: no rights; mend"),
        ({}, {"cuda": None}, "torch 2.15.0 is built without CUDA"),
    ],
)
def test_gpus_that_torch_cannot_use_are_one_message(box, options, torch, telling):
    found = box(**options)
    with pytest.raises(UserError) as caught:
        devices.require({"auto"}, found, respond=seen(**torch))
    assert telling in str(caught.value)
    assert "or run with --device cpu" in str(caught.value)


def test_other_devices_are_asked_for_too():
    devices.require({"xpu"}, cards.Box(), respond=seen("xpu:0"))
    with pytest.raises(UserError, match=r"device mps is asked for, and torch sees none: torch 2.15.0 sees xpu:0"):
        devices.require({"mps"}, cards.Box(), respond=seen("xpu:0"))


def test_an_index_beyond_the_last_card_is_refused(box):
    with pytest.raises(UserError, match="device cuda:2 is asked for, and there are 2 of its kind"):
        devices.require({"cuda:2"}, box(), respond=seen("cuda:0", "cuda:1"))


def test_a_torch_that_does_not_answer_is_told(box):
    with pytest.raises(UserError, match="torch does not say what it sees: the process that was asked died of SIGSEGV"):
        devices.require({"auto"}, box(), respond=answering.crash)


def test_devices_of_a_matrix_are_those_of_all_its_blocks():
    assert matrix.load("default").override({"device": ["auto", "cuda:1"]}).devices == {"auto", "cuda:1"}


@pytest.mark.slow
@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="torch would see the GPU of this machine")
def test_a_run_on_gpus_that_torch_cannot_use_records_nothing(tmp_path):
    """For real: nvidia-smi lists two, and torch, asked in a process of its own, sees none."""
    ours = {name: value for name, value in os.environ.items() if name != cards.VISIBLE}  # which hides them from tests
    env = {**ours, "PATH": smi.put(tmp_path / "smi", TWO), "PYTHONPATH": str(catalogue.ROOT), "COLUMNS": "200"}
    env |= {"DENSEBENCH_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "bench", "run", "--matrix", "smoke"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "torch sees none, while nvidia-smi sees 2 GPUs" in done.stderr
    assert "CUDA_VISIBLE_DEVICES is empty" not in done.stderr
    assert not list(tmp_path.glob("results/**/*.jsonl"))
    dry = subprocess.run([*words, "--dry-run"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert "torch sees none" in dry.stderr, "a plan is shown all the same"
