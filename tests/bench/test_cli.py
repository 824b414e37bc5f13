"""The command line as a user meets it: every verb in a process of its own, every mistake without a traceback."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import bench
from bench import catalogue
from tests.bench.data.fixtures import write_camvid
from tests.bench.records import environment, make, write

ROOT = catalogue.ROOT
COMMAND = [sys.executable, "-m", "bench"]
_HEAR = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
HEARING = [sys.executable, "-c", _HEAR, *COMMAND]
"""The command in a process that hears SIGINT, though these tests may run where it is ignored (``nohup``, ``&``)."""


@pytest.fixture
def densebench(tmp_path):
    """Runs ``densebench`` with its own cache; gives exit code, output and errors."""

    def call(*words, code=0, cwd=tmp_path):
        env = {**os.environ, "DENSEBENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env, cwd=cwd, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr + done.stdout

    return call


@pytest.mark.parametrize("kind", ["backbones", "heads", "datasets", "measures", "matrices"])
def test_list_names_what_there_is(densebench, kind):
    rows = json.loads(densebench("list", kind, "--json"))
    assert all(row["name"] and row["doc"] for row in rows)
    text = densebench("list", kind)
    assert all(row["name"] in text for row in rows)


def test_a_dry_run_plans_without_torch_and_without_writing(densebench, tmp_path):
    code = "import sys, bench.cli as cli"
    code += "; cli.app(['run', '--dry-run', '--json', '--results', '/nowhere'], standalone_mode=False)"
    code += "; assert not {'torch', 'pandas', 'timm'} & set(sys.modules), 'slow imports'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["measure"] for row in rows} == {"accuracy", "complexity", "latency", "memory", "roof"}
    assert all(row["todo"] for row in rows)
    densebench("run", "--dry-run")
    assert not (tmp_path / "results").exists()


def test_options_override_axes(densebench):
    words = (
        "--backbone",
        "vit_pico,deit_pico",
        "--backbone",
        "swin_pico",
        "--resolution",
        "64x128",
        "--measure",
        "latency",
    )
    rows = json.loads(densebench("run", "--dry-run", "--json", *words, "--head", "linear", "--patch", "8"))
    (roof,) = (row for row in rows if row["measure"] == "roof")
    rows.remove(roof)  # what latency needs beside it is of the machine alone
    assert {row["fields"]["backbone"] for row in rows} == {"vit_pico", "deit_pico", "swin_pico"}
    assert {(row["fields"]["height"], row["fields"]["width"]) for row in rows} == {(64, 128)}
    assert {row["measure"] for row in rows} == {"latency"}
    assert len(rows) == 3


BESIDE = ("--allow-company", "--budget", "0.2")
"""Tests run several at a time: no round is undisturbed."""

MISTAKES = [
    (("run", "--backbone", "vit_pcio"), "--backbone: unknown backbone 'vit_pcio': did you mean vit_pico"),
    (("run", "--head", "upernett"), "did you mean upernet"),
    (("run", "--matrix", "defalt"), "unknown matrix 'defalt': did you mean default"),
    (("run", "--matrix", "no/such.toml"), "matrix no/such.toml cannot be read"),
    (("run", "--resolution", "64*64"), "a resolution like 224 or 384x640"),
    (("run", "--patch", "x"), "--patch: a whole number from 1"),
    (("run", "--measure", "sped"), "unknown measure 'sped'"),
    (("run", "--dataset", "camvid"), "data set camvid lies on disk and its folder is not known"),
    (("run", "--dataset", "camvid", "--data-root", "nowhere"), "nowhere is no folder"),
    (("run", "--json"), "--json goes with --dry-run"),
    (("run", "--launcher", "locl", "--backbone", "vit_pico"), "unknown launcher 'locl': did you mean local"),
    (("run", "--device", "gpu"), "--device: unknown device 'gpu'"),
    (("run", "--backbone", ","), "--backbone was given without a value"),
    (("list", "backbone"), "unknown kind 'backbone': did you mean backbones"),
    (("compare",), "run `densebench run` first"),
    (("report",), "run `densebench run` first"),
    (("compare", "--where", "head"), "AXIS=VALUE"),
    (("run", "--no-such-option"), "No such option"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_message_and_exit_code_2(densebench, words, message):
    assert message in " ".join(densebench(*words, code=2).split())


def test_a_half_present_data_root_is_named_before_anything_runs(densebench, tmp_path):
    write_camvid(tmp_path / "camvid")
    victim = next((tmp_path / "camvid" / "trainannot").glob("*.png"))
    victim.unlink()
    error = densebench("run", "--dataset", "camvid", "--head", "linear", "--data-root", str(tmp_path), code=2)
    assert victim.stem in error
    assert not list(tmp_path.glob("results/*/records.jsonl")) or not any(
        path.read_text() for path in tmp_path.glob("results/*/records.jsonl")
    )


def test_an_unwritable_results_folder_is_named(densebench):
    # /proc refuses new folders to everyone, root too.
    assert "/proc/results" in densebench("run", "--results", "/proc/results", code=2)


def test_a_torn_store_is_named_by_readers_and_mended_by_run(densebench, tmp_path):
    folder = write(tmp_path / "results" / "here", [make("latency", latency_ms=2.0)], [environment("here")])
    store = folder / "records.jsonl"
    whole = store.read_text()
    store.write_text(whole + '{"measure":"late')
    for verb in ("report", "compare"):
        assert "is cut off" in densebench(verb, code=2)
    assert store.read_text().startswith(whole)


@pytest.mark.slow
def test_run_measures_reports_and_resumes(densebench, tmp_path):
    """The main job on two cells: every measure in records and tables, an impossible patch as a row, nothing twice."""
    words = ("run", "--backbone", "vit_pico", "--head", "linear,fcos_pico", "--resolution", "64", "--machine", "here")
    words = (*words, "--seed", "0", "--recipe", "smoke", "--batch", "1", *BESIDE)
    output = densebench(*words, "--patch", "16")
    assert "9 to make" in output, "two cells, four measures, and the limits of the machine"
    assert output.count("vit_pico/16") >= 2
    folder = tmp_path / "results" / "here"
    kept = {"records.jsonl", "environments.jsonl", "images", "pictures", "segmentation.png", "detection.png"}
    assert "picture: results/here/detection.png, results/here/segmentation.png" in output
    tables = {f"{task}.{kind}" for task in ("segmentation", "detection") for kind in ("md", "csv")}
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == kept | tables
    for task, headline in (("segmentation", "miou"), ("detection", "ap")):
        (row,) = csv.DictReader((folder / f"{task}.csv").read_text().splitlines())
        assert float(row[headline]) >= 0
        assert all(float(row[name]) > 0 for name in ("latency_ms", "peak_mib", "gmacs", "params_m", "tokens"))
    frame = bench.load(tmp_path / "results")
    assert len(frame) == 2
    assert frame["latency_ms"].notna().all()
    records = (folder / "records.jsonl").read_text()
    named = {json.loads(line)["values"].get("images") for line in records.splitlines()} - {None}
    assert {path.stem for path in (folder / "images").iterdir()} == named
    assert len(named) == 2
    again = densebench(*words, "--patch", "16")
    assert "0 to make" in again
    assert (folder / "records.jsonl").read_text() == records
    bad = (*words, "--patch", "16,7", "--measure", "latency")
    assert "nearest: 63x63" in densebench(*bad), "what is unsupported did not fail"
    densebench(*bad, "--strict", code=1)
    assert "unsupported" in (folder / "segmentation.md").read_text()
    densebench("report", "--check")
    (folder / "segmentation.md").write_text("something else\n")
    assert "segmentation.md is not what the records give" in densebench("report", "--check", code=1)
    densebench("report")
    densebench("report", "--check")


def test_the_public_functions_come_without_importing_torch():
    code = "import sys, bench; assert not {'torch', 'pandas'} & set(sys.modules); from bench import build, load"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["libraries load", "one is measured"])
def test_ctrl_c_keeps_what_was_measured(tmp_path, moment):
    """SIGINT to the whole foreground group, as a terminal sends it: no traceback from anyone, exit code 130."""
    words = ("run", "--backbone", "vit_pico", "--measure", "latency", "--machine", "here", *BESIDE)
    env = {**os.environ, "DENSEBENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*HEARING, *words], cwd=tmp_path, env=env, text=True, stdout=-1, stderr=-1, start_new_session=True
    ) as process:
        for line in process.stdout:
            if moment == "libraries load" and "to make" in line:
                time.sleep(1.0)
                break
            if line.startswith("[1/"):
                break
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors
    assert "the same command goes on where it stopped" in " ".join(errors.split())
    records = (tmp_path / "results" / "here" / "records.jsonl").read_text().splitlines()
    assert len(records) >= (moment == "one is measured")
    assert all(json.loads(record)["status"] == "ok" for record in records)


def test_what_looks_like_markup_is_shown_as_it_is(densebench, tmp_path):
    (tmp_path / "odd.toml").write_text(
        'question = "Which [/b] [red]one?"\n[[grid]]\nbackbone = "vit_pico"\nresolution = 63\nhead = "linear"\n'
        'measure = "complexity"\n'
    )
    output = densebench("run", "--matrix", "odd.toml", "--results", "[/x]", "--strict", code=1)
    assert "Which [/b] [red]one?" in output
    assert "nearest: 48x48" in output
