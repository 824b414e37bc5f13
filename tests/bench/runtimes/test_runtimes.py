"""Runtimes of the catalogue run a real model, each as it is here; a new file is tested by being there."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from backbones.contract import Unsupported
from bench import catalogue
from bench.measures import memory
from bench.model import artifact, deploy
from bench.model.deploy import LONGEST, gist
from bench.plan import runtimes
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import Context
from bench.runtimes import openvino
from heads.linear import Linear
from tests.bench.records import CELL

SMALL = Cell(**{**CELL, "height": 64, "width": 64, "batch": 1, "compile": "none", "memory_format": "contiguous"})
COMPILES = {"aoti"}
"""Those whose export takes a C++ compiler for some ten seconds."""
EXPORTED = [
    pytest.param(name, marks=pytest.mark.slow) if name in COMPILES else name
    for name in catalogue.entries("runtimes")
    if name != runtimes.TORCH
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said():
    return []


@pytest.fixture
def prepared(cache, said):
    def prepare(runtime, *, decoded=False, **fields):
        cell = replace(SMALL, runtime=runtime, **fields)
        context = Context(lambda *_: None, 1, resolve(cell, cache=cache), say=said.append)
        return artifact.prepare(context, decoded=decoded)

    return prepare


@pytest.mark.parametrize("name", EXPORTED)
def test_a_runtime_that_is_here_gives_what_torch_gives(prepared, name, said):
    if lost := runtimes.missing(name):
        with pytest.raises(Unsupported, match=f"{name} needs .*{lost[0]}.* not installed: pip install"):
            prepared(name)
        pytest.skip(f"{' and '.join(lost)} not installed here: only how that is said was tested")
    if "cpu" not in catalogue.get("runtimes", name).facts["devices"]:
        pytest.skip(f"{name} has no CPU")
    ready = prepared(name)
    assert 0 <= ready.deviation < 1e-3
    made = ready.deployed
    assert made is not None
    assert not made.reused
    assert made.export_s > 0
    assert made.mib > ready.net.backbone.tokens / 2**20
    again = prepared(name).deployed
    assert again.reused
    assert again.export_s == made.export_s, "seconds of the day when it was made"
    assert said == []


@pytest.mark.parametrize(
    ("name", "quantise", "head"),
    [
        ("onnxruntime", "none", "linear"),
        ("openvino", "none", "linear"),
        # Its decoding has a matrix product, which is left as it is.
        ("onnxruntime", "int8-static", "eomt_pico"),
        ("openvino", "int8-static", "eomt_pico"),
        pytest.param("onnxruntime", "none", "fcos_pico", marks=pytest.mark.slow),
        pytest.param("openvino", "int8-static", "fcos_pico", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")
def test_a_graph_with_its_decoding_predicts_what_torch_decodes_of_the_raw_output(prepared, name, quantise, head):
    ready = prepared(name, quantise=quantise, head=head, decoded=True)
    assert ready.decoding == "in the graph"
    parts = ready.parts(replace(SMALL, runtime=name))
    assert set(parts) == {"end_to_end"}
    found = parts["end_to_end"]()
    assert len(found) == (3 if head == "fcos_pico" else 1), "the raw output, by which int8 knows where to end, is gone"
    wanted = ready.net.decode(ready.forward(), SMALL.size)
    assert artifact.agreement(wanted, ready.whole.prediction(ready.image)) > 0.999


def test_where_decoding_cannot_be_in_the_graph_it_is_timed_in_torch_and_that_is_said(prepared, monkeypatch):
    def refuses(*_):
        raise Unsupported("no fixed shapes")

    monkeypatch.setattr(Linear, "deploy", refuses)
    ready = prepared("openvino", decoded=True)
    assert ready.decoding == "in torch: no fixed shapes"
    assert set(ready.parts(replace(SMALL, runtime="openvino"))) == {"post", "end_to_end"}
    monkeypatch.setattr(Linear, "deploy", lambda self, raw, size: ((-self.scores(raw, size)).argmax(dim=1),))
    ready = prepared("openvino", decoded=True)
    assert ready.whole is None
    assert re.fullmatch(r"in torch: in the graph \d+\.\d% of what it predicts are not what .*", ready.decoding)


@pytest.mark.slow
def test_memory_of_a_runtime_is_the_growth_of_a_process_and_no_peak_of_tensors(cache):
    cell = replace(SMALL, runtime="onnxruntime")
    values = memory.measure(cell, Context(lambda *_: None, 1, resolve(cell, cache=cache))).values
    assert {name for name, value in values.items() if value is not None} == {"runtime_mib"}
    weights = 2.0  # MiB of a vit_pico
    assert weights < values["runtime_mib"] < 200


def test_an_artifact_that_was_changed_is_made_again_and_that_is_said_once(prepared, said):
    made = prepared("openvino").deployed
    path = made.folder / "model.bin"
    path.write_bytes(path.read_bytes()[:-9])
    again = prepared("openvino").deployed
    assert not again.reused
    (text,) = said
    assert str(made.folder) in text
    assert "model.bin has" in text
    assert prepared("openvino").deployed.reused
    assert len(said) == 1


def test_an_artifact_of_another_version_is_made_again_and_stays_for_who_has_that_version(prepared, said, monkeypatch):
    made = prepared("onnxruntime").deployed
    monkeypatch.setattr(deploy, "_made_by", lambda _: "onnxruntime 99.0")
    again = prepared("onnxruntime").deployed
    assert not again.reused
    (text,) = said
    assert f"onnxruntime {runtimes.installed('onnxruntime')}" in text
    assert "onnxruntime 99.0 is here: it is exported again" in text
    assert again.folder != made.folder
    assert made.folder.is_dir()


class Lacking:
    """Of OpenVINO's kind: says where it was before it says what, and much."""

    def __init__(self, what):
        self.what = what

    def export(self, network, image, folder, options):
        if self.what == "export":
            raise RuntimeError(
                "Exception from src/core.cpp:132:\nException from src/plugin.cpp:59:\nno rule for aten::x\n"
            )
        (folder / "model").write_text("here")

    def load(self, folder, options):
        if self.what == "load":
            raise ValueError("Check failed " + "f32[1,?,1] " * 200)
        if self.what == "disk":
            raise OSError(28, "No space left on device")
        if self.what == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

        def run(image):
            raise KeyError("a node")

        return run


@pytest.mark.parametrize(
    ("what", "raised", "words"),
    [
        ("export", Unsupported, r"^openvino \S+ cannot export this network: RuntimeError: no rule for aten::x$"),
        ("load", Unsupported, r"^openvino \S+ cannot load this network: ValueError: Check failed f32"),
        ("run", Unsupported, r"^openvino \S+ cannot run this network: KeyError: 'a node'$"),
        ("disk", OSError, "No space left"),
        ("memory", RuntimeError, "can't allocate memory"),
    ],
)
def test_what_a_runtime_lacks_is_unsupported_in_a_line_and_what_the_machine_lacks_is_not(
    prepared, monkeypatch, what, raised, words
):
    lacking = Lacking(what)
    for name in ("export", "load"):
        monkeypatch.setattr(openvino, name, getattr(lacking, name))
    with pytest.raises(raised, match=words) as caught:
        prepared("openvino")
    assert type(caught.value) is raised
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LONGEST + 120


def test_an_error_without_words_is_named_by_its_kind():
    assert gist(AssertionError()) == "AssertionError"


PLUGIN = """"Misbehaves."
import os, signal, time

CATALOGUE = {
    NAME: {
        "needs": ["torch"], "extra": "", "devices": ["cpu"], "dtypes": ["fp32"], "quantise": ["none"], "quantisers": []
    }
}

def export(network, image, folder, options):
    if "NAME" == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)

def load(folder, options):
    raise AssertionError("nothing was exported")
"""


@pytest.mark.slow
def test_exporters_that_die_or_hang_cost_their_own_cells_alone(tmp_path):
    """From a package of somebody else, found by its entry points."""
    site = tmp_path / "site"
    about = site / "theirs-1.0.dist-info"
    about.mkdir(parents=True)
    for way in ("dies", "hangs"):
        (site / f"their_{way}.py").write_text(PLUGIN.replace("    NAME", f'    "{way}"').replace("NAME", way))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[densebench.runtimes]\na = their_dies\nb = their_hangs\n")
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{catalogue.ROOT}"}
    words = [sys.executable, "-m", "bench", "run", "--backbone", "vit_pico", "--head", "linear", "--resolution", "64"]
    words += ["--patch", "16", "--runtime", "dies,hangs,torch", "--measure", "memory", "--batch", "1"]
    words += ["--timeout", "12", "--results", str(tmp_path / "results")]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    (file,) = (tmp_path / "results").glob("*/records.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    found = {record["fields"].get("runtime", "torch"): record["status"] for record in records}
    assert found == {"dies": "error", "hangs": "timeout", "torch": "ok"}, done.stdout + done.stderr
    assert done.returncode == 1
    assert "leaked semaphore" not in done.stderr
