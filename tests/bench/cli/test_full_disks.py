"""Disks that are full or may only be read: a small one, mounted for one command in a namespace of its own."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from tests.bench.records import make, write

ROOT = Path(__file__).resolve().parents[3]
DENSEBENCH = shlex.join([sys.executable, "-m", "bench"])
RUN = f"{DENSEBENCH} run --matrix mine.toml --machine m --allow-company --budget 0.1"
MATRIX = """
question = "Which?"
[[grid]]
measure = ["complexity", "accuracy"]
backbone = "vit_pico"
resolution = 64
head = "linear"
recipe = "smoke"
"""


def mounted(folder):
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def shell(tmp_path):
    """Runs lines of a shell beside ``disk``, 128 KiB that nobody else sees; gives the last one's end."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine.toml").write_text(MATRIX)
    try:
        if not mounted(tmp_path / "disk"):
            pytest.skip("this user may mount nothing")
    except FileNotFoundError:
        pytest.skip("there is no unshare")

    def call(*lines, cache="cache", code=0):
        script = ["mount -t tmpfs -o size=128k tmpfs disk", *lines]
        env = {**os.environ, "DENSEBENCH_CACHE": str(tmp_path / cache), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", "\n".join(script)],
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return call


FILLED = "cat /dev/zero > disk/fill 2>/dev/null"


def room(kib):
    """Leave so much of it."""
    return f"head -c {128 - kib}k /dev/zero > disk/fill"


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_full_disk_for_results_is_said_before_anything_is_measured(shell):
    done = shell(FILLED, f"{RUN} --results disk/results", code=2)
    assert "cannot be written to (No space left on device)" in done.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_no_record_and_the_same_command_goes_on(shell, tmp_path):
    """The room is enough for some records and not for all."""
    seeds = f"{RUN} --results disk/results --measure accuracy --seed 0,1,2"
    done = shell(room(16), f"{seeds} 2> said; code=$?", "cp -r disk/results kept", "exit $code", code=2)
    assert "(No space left on device)" in (tmp_path / "said").read_text()
    assert done.stdout
    before = records(tmp_path / "kept" / "m" / "records.jsonl")
    assert {record["status"] for record in before} <= {"ok"}
    shell(f"{RUN} --results kept --measure accuracy --seed 0,1,2")
    after = records(tmp_path / "kept" / "m" / "records.jsonl")
    assert after[: len(before)] == before
    assert sorted((record["fields"]["seed"], record["status"]) for record in after) == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_results_that_may_only_be_read_are_compared_and_nothing_is_written(shell, tmp_path):
    write(tmp_path / "results" / "m", [make("complexity", params_m=1.0), make("accuracy", miou=40.0)])
    ready = ("cp -r results disk/results", "mount -o remount,ro disk")
    verbs = ("compare", "models", "run --matrix mine.toml --dry-run")
    shell(*ready, "set -e", *(f"{DENSEBENCH} {verb} --results disk/results" for verb in verbs))
    for verb, says in (
        ("report", r"tables in disk/results/m cannot be written (Read-only file system)"),
        ("explore", "explorer.html cannot be written (Read-only file system); name another file with --out"),
        ("report --set-aside", "disk/results/m cannot be written to (Read-only file system)"),
        ("run --matrix mine.toml --machine m", "disk/results/m cannot be written to (Read-only file system)"),
    ):
        assert says in shell(*ready, f"{DENSEBENCH} {verb} --results disk/results", code=2).stderr


def test_tables_that_do_not_fit_leave_the_old_ones_and_nothing_half_written(shell, tmp_path):
    write(tmp_path / "results" / "m", [make("complexity", params_m=1.0), make("accuracy", miou=40.0)])
    shell(
        "cp -r results disk/results",
        f"{DENSEBENCH} report --results disk/results && echo old > disk/results/m/segmentation.csv",
        FILLED,
        f"{DENSEBENCH} report --results disk/results 2> said; code=$?",
        "ls -A disk/results/m > left; cat disk/results/m/segmentation.csv > csv",
        "exit $code",
        code=2,
    )
    assert "cannot be written (No space left on device)" in (tmp_path / "said").read_text()
    assert (tmp_path / "csv").read_text() == "old\n"
    assert ".part" not in (tmp_path / "left").read_text()


@pytest.mark.slow
def test_a_full_cache_costs_time_and_no_figure(shell, tmp_path):
    shell(FILLED, f"{RUN} --results results && {DENSEBENCH} list heads", cache="disk/cache")
    found = {record["measure"]: record["status"] for record in records(tmp_path / "results" / "m" / "records.jsonl")}
    assert found == {"accuracy": "ok", "complexity": "ok"}


@pytest.mark.slow
def test_what_may_only_be_read_beside_the_records_costs_no_figure(shell, tmp_path):
    """The cache, and folders for pictures, images and models in which nothing may be made."""
    shell(
        "mkdir -p disk/pictures disk/images disk/models results/m",
        "cd results/m && ln -s ../../disk/pictures ../../disk/images ../../disk/models . && cd ../..",
        "mount -o remount,ro disk",
        f"{RUN} --results results --measure accuracy --keep-models",
        cache="disk/cache",
    )
    (record,) = records(tmp_path / "results" / "m" / "records.jsonl")
    assert record["status"] == "ok"
    assert record["values"]["miou"] is not None
    assert "Read-only" in record["values"]["images_lost"]
    assert "Read-only" in record["values"]["model_lost"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_whatever_a_disk_refuses_that_nobody_thought_of_is_a_sentence(monkeypatch, capsys, code):
    def refused():
        raise OSError(code, os.strerror(code), "/results/x")

    monkeypatch.setattr(cli, "app", refused)
    monkeypatch.setattr(cli, "_flush", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"densebench: /results/x cannot be read or written ({os.strerror(code)})" in capsys.readouterr().err
