"""The command line as a user meets it: every verb in a process of its own, every mistake without a traceback."""

import contextlib
import csv
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench
from bench import catalogue, cli
from bench.errors import UserError
from bench.plan import recipe
from tests.bench.data.fixtures import truncate, write_camvid, write_yolo
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


@pytest.mark.parametrize("kind", ["backbones", "heads", "datasets", "measures", "runtimes", "matrices", "recipes"])
def test_list_names_what_there_is(densebench, kind):
    rows = json.loads(densebench("list", kind, "--json"))
    assert all(row["name"] and row["doc"] for row in rows)
    text = densebench("list", kind)
    assert all(row["name"] in text for row in rows)


def test_a_question_and_a_comment_are_listed_as_whole_sentences(densebench):
    rows = [*json.loads(densebench("list", "matrices", "--json")), *json.loads(densebench("list", "recipes", "--json"))]
    assert [row["name"] for row in rows if row["doc"][-1] not in ".?"] == []
    docs = {row["name"]: row["doc"] for row in rows}
    assert docs["default"].endswith("under linear, upernet and fcos, on this machine?"), "its second line"
    assert docs["smoke"] == "Enough steps to see that everything runs, and no more: its numbers mean nothing."


def test_the_version_comes_without_torch():
    code = "import sys, importlib.metadata, bench.cli as cli; cli.app(['--version'], standalone_mode=False)"
    code += "; assert not {'torch', 'pandas', 'timm'} & set(sys.modules), 'slow imports'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"densebench {importlib.metadata.version('densebench')}\n"


def test_the_version_of_what_is_not_installed_is_not_known(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(UserError, match="pip install -e"):
        cli.app(["--version"], standalone_mode=False)


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
    (("run", "--runtime", "onnx"), "--runtime: unknown runtime 'onnx': did you mean onnxruntime"),
    (("run", "--device", "gpu"), "--device: unknown device 'gpu'"),
    (("run", "--backbone", ","), "--backbone was given without a value"),
    (("run", "--data-root", "."), "name it with --dataset; `densebench data FOLDER` says which layout"),
    (("data", "nowhere"), "nowhere is no folder; `densebench data` wants the folder of a data set"),
    (("data", ".", "--dataset", "vco"), "unknown data set 'vco': did you mean voc"),
    (("list", "backbone"), "unknown kind 'backbone': did you mean backbones"),
    (("compare",), "run `densebench run` first"),
    (("report",), "run `densebench run` first"),
    (("compare", "--where", "head"), "AXIS=VALUE"),
    (("compare", "--csv", "--json"), "--json and --csv exclude each other"),
    (("run", "--wide", "--csv"), "--csv and --wide exclude each other"),
    (("run", "--dry-run", "--csv"), "--csv is of what was measured, and --dry-run measures nothing"),
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


def test_data_looks_at_a_folder_and_its_command_runs(densebench, tmp_path):
    root = write_yolo(tmp_path / "my shapes", train=6)
    content = json.loads(densebench("data", str(root), "--json"))["layouts"][0]
    assert (content["task"], content["classes"]) == ("detection", ["disc", "box"])
    rows = json.loads(densebench(*shlex.split(content["run"])[1:], "--dry-run", "--json"))
    assert {row["fields"].get("dataset", "yolo:my shapes") for row in rows} == {"yolo:my shapes"}
    truncate(root / "images" / "train" / "image_001.jpg")
    text = densebench("data", str(root), code=1)
    assert "yolo, for detection" in text
    assert "image_001.jpg: cannot be read as an image" in text


def test_a_data_root_alone_is_recognised(densebench, tmp_path):
    root = write_yolo(tmp_path / "shapes", train=6)
    rows = json.loads(densebench("run", "--data-root", str(root), "--dry-run", "--json"))
    on = [row["fields"] for row in rows if "dataset" in row["fields"]]
    assert {(fields["dataset"], fields["head"]) for fields in on} == {("yolo:shapes", "fcos_pico")}
    error = densebench("run", "--data-root", str(root), "--head", "linear", "--dry-run", code=2)
    assert "has labels for detection, which no head asked for does" in error


def test_broken_files_are_a_list_before_anything_is_measured(densebench, tmp_path):
    root = write_yolo(tmp_path / "shapes", train=6)
    for index in (1, 4):
        truncate(root / "images" / "train" / f"image_00{index}.jpg")
    words = ("run", "--data-root", str(root), "--backbone", "vit_pico", "--head", "fcos_pico", "--resolution", "64")
    error = densebench(*words, "--machine", "here", code=2)
    assert "2 of 8 images cannot be used, so nothing was measured" in error
    assert error.count("cannot be read as an image") == 2
    assert (
        not (tmp_path / "results" / "here" / "records.jsonl").exists()
        or not (tmp_path / "results" / "here" / "records.jsonl").read_text()
    )


@pytest.mark.slow
def test_skip_broken_trains_on_the_rest_and_says_so(densebench, tmp_path):
    root = write_yolo(tmp_path / "shapes", train=6)
    truncate(root / "images" / "train" / "image_001.jpg")
    words = ("run", "--data-root", str(root), "--backbone", "vit_pico", "--head", "fcos_pico", "--resolution", "64")
    words = (*words, "--patch", "16", "--seed", "0", "--recipe", "smoke", "--measure", "accuracy", "--machine", "here")
    densebench(*words, "--skip-broken")
    (record,) = map(json.loads, (tmp_path / "results" / "here" / "records.jsonl").read_text().splitlines())
    assert record["status"] == "ok", record["reason"]
    assert record["inputs"]["dataset"].startswith("1 of 6 train images left out as broken (")
    assert "Data: 1 of 6 train images left out" in (tmp_path / "results" / "here" / "detection.md").read_text()


def test_an_unwritable_results_folder_is_named(densebench):
    # /proc refuses new folders to everyone, root too.
    assert "/proc/results" in densebench("run", "--results", "/proc/results", code=2)


def said(words, cwd, code=0):
    """What a verb writes to stderr."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "DENSEBENCH_CACHE": str(cwd / "cache")}
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def test_damaged_lines_are_named_once_and_the_verb_goes_on(densebench, tmp_path):
    folder = write(tmp_path / "results" / "here", [make("latency", latency_ms=2.0)], [environment("here")])
    store = folder / "records.jsonl"
    whole = store.read_text()
    store.write_text("[1]\n" + whole + '{"measure":"late')
    for verb in (("report",), ("report", "--check"), ("models",)):
        errors = said(verb, tmp_path)
        assert errors.count("records.jsonl: 2 damaged lines are left out") == (verb != ("models",)), "once a verb"
    assert "line 1 is no record" in said(["report"], tmp_path)
    assert "line 3 is cut off" in said(["report"], tmp_path)
    assert whole in store.read_text()
    text = densebench("report", "--set-aside")
    assert "1 damaged line moved to records.damaged" in text
    assert "records.torn" in text
    assert store.read_text() == whole
    assert (folder / "records.damaged").read_text() == "[1]\n"
    assert said(["report"], tmp_path) == ""
    assert "--set-aside" in densebench("report", "--check", "--set-aside", code=2)


def test_a_machine_is_a_plain_name(densebench, tmp_path):
    for name in ("../../x", "a/b", "", "..", "a\x1b[31m"):
        assert "is no plain name" in densebench("run", "--dry-run", "--machine", name, code=2)
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.slow
def test_run_measures_reports_and_resumes(densebench, tmp_path):
    """The main job on two cells: every measure in records and tables, an impossible patch as a row, nothing twice."""
    words = ("run", "--backbone", "vit_pico", "--head", "linear,fcos_pico", "--resolution", "64", "--machine", "here")
    (tmp_path / "mine.toml").write_text((recipe.FOLDER / "smoke.toml").read_text())
    words = (*words, "--seed", "0", "--recipe", "mine.toml", "--batch", "1", *BESIDE)
    output = densebench(*words, "--patch", "16")
    assert "9 to make" in output, "two cells, four measures, and the limits of the machine"
    assert output.count("vit_pico/16") >= 2
    folder = tmp_path / "results" / "here"
    kept = {"records.jsonl", "environments.jsonl", "images", "pictures"}
    kept |= {f"{task}.{kind}" for task in ("segmentation", "detection") for kind in ("png", "svg")}
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
    rows = csv.DictReader(densebench(*words, "--patch", "16", "--csv").splitlines())  # and nothing else on stdout
    assert {(row["task"], row["backbone"], row["status_latency"]) for row in rows} == {
        (task, "vit_pico", "ok") for task in ("segmentation", "detection")
    }
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


def test_a_comparison_is_as_wide_as_the_terminal_or_as_wide_as_it_takes(densebench):
    words = ("compare", "--results", str(ROOT / "results"), "--task", "segmentation")
    narrow, wide = densebench(*words), densebench(*words, "--wide")
    assert max(map(len, narrow.splitlines())) <= 100 < max(map(len, wide.splitlines()))
    assert "Left out at a width of 100: " in narrow
    assert "Left out" not in wide
    rows = list(csv.DictReader(densebench(*words, "--csv").splitlines()))
    assert {row["pareto"] for row in rows} == {"True", "False", ""}
    assert all(row["reason"] or float(row["cost"]) > 0 for row in rows)


_HANGING = """
import signal
import sys
for number in (signal.SIGTERM, signal.SIGHUP):  # which whatever started the tests may ignore
    signal.signal(number, signal.SIG_DFL)
from bench.cli import main
from bench.launchers import _worker
from tests.bench import misbehaving

def work(job, *others):
    (_ORIGINAL if job.measure.name == "complexity" else misbehaving.work)(job, *others)

_ORIGINAL = _worker._work
_worker._work = work
misbehaving.roof = misbehaving.good
misbehaving.latency = misbehaving.hangs_with_a_child
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [([signal.SIGTERM], 143, "ended by SIGTERM: 2 measurements are kept"), ([signal.SIGHUP] * 2, 129, "SIGHUP: 2 ")],
    ids=["SIGTERM", "SIGHUP twice"],
)
def test_a_scheduler_ends_a_run_and_what_hangs_in_it(tmp_path, sent, code, says):
    """Records are kept, tables written, children gone, one sentence said, and the exit code is the signal's."""
    script = tmp_path / "hanging.py"
    script.write_text(_HANGING)
    words = ("run", "--backbone", "vit_pico", "--head", "linear", "--patch", "16", "--resolution", "64", "--batch", "1")
    words += ("--measure", "complexity,latency", "--machine", "here", *BESIDE)
    env = {**os.environ, "DENSEBENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script, *words], cwd=tmp_path, env=env, text=True, stdout=-1, stderr=-1
    ) as process:
        hanging = workers = []
        while not hanging:
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
            workers = [pid for pid in below(process.pid) if "sleep" not in command(pid)]
            hanging = [pid for pid in below(process.pid) if "sleep" in command(pid)]
        for number in sent:
            process.send_signal(number)
        began = time.monotonic()
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code, output + errors
    assert "Traceback" not in errors
    assert errors.count("are kept") == 1
    assert says in " ".join(errors.split())
    assert len((tmp_path / "results" / "here" / "records.jsonl").read_text().splitlines()) == 2
    assert list((tmp_path / "results" / "here").glob("*.md"))
    while any(command(pid) for pid in (*workers, *hanging)):
        assert time.monotonic() < began + 30
        time.sleep(0.1)


def below(pid):
    """Ids of all processes that a process has started, and that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def command(pid):
    """The command line of a process; nothing where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@pytest.mark.parametrize("words", [("list", "backbones"), ("list", "heads", "--json"), ("--help",)], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([*COMMAND, *words], stdout=closed, stderr=-1, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""


def test_a_closed_output_is_no_error():
    asked = [*map(shlex.quote, COMMAND), "list", "heads", ">&-"]
    done = subprocess.run(" ".join(asked), shell=True, stderr=-1, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_the_output_is_one_message(densebench):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "list", "heads"], stdout=full, stderr=-1, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == "densebench: the output cannot be written (No space left on device)\n"


def test_what_a_terminal_cannot_show_is_replaced(tmp_path):
    write(tmp_path / "é" / "m", [make("complexity", params_m=1.0)])
    words = ("report", "--results", str(tmp_path / "é"))
    for given in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **given}
        done = subprocess.run([*COMMAND, *words], capture_output=True, env=env, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
