"""A model as it is given out: files, what is said of them, and a script that needs no torch."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bench
from bench import cli
from bench.errors import UserError
from bench.model import build, kept
from bench.plan import models
from bench.plan.case import resolve
from bench.plan.cell import Cell
from heads.contract import Boxes
from heads.deployed import prediction
from tests.bench.records import CELL

SIZE = (64, 96)
SMALL = Cell(**{**CELL, "recipe": "smoke", "height": SIZE[0], "width": SIZE[1]})
BLOCKED = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(tmp_path):
    """Keeps a model as a run does; its file."""

    def made(head):
        case = resolve(replace(SMALL, head=head), cache=tmp_path / "cache")
        net = build.of_case(case).eval()
        if head != "linear":
            net.head.full_load(net.backbone(torch.rand(1, 3, *SIZE)), SIZE, 60)
        digest = kept.keep(net, case, tmp_path / "results" / "box" / models.FOLDER)
        return f"trained:{digest[:8]}"

    return made


def export(*words, code=0):
    done = CliRunner().invoke(cli.app, ["export", *words])
    if isinstance(done.exception, UserError):
        assert code == 2, done.exception
        return str(done.exception)
    assert done.exit_code == code, f"{done.output} {done.exception!r}"
    return " ".join(done.output.split())


def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def run(tmp_path, folder):
    """What the script finds in a process that cannot import torch."""
    words = [sys.executable, "-c", BLOCKED, str(folder / "run.py"), "picture.png", "found.npz"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        return {name: torch.from_numpy(found[name]) for name in found}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_script_segments_as_densebench_does_and_needs_no_torch(trained, tmp_path, runtime):
    weights = trained("linear")
    said = export("vit_pico", "linear", "--runtime", runtime, "--out", "made", "--weights", weights)
    assert "random" not in said
    contract = json.loads((tmp_path / "made" / "contract.json").read_text())
    net, image = bench.load_model(weights.removeprefix("trained:"), tmp_path / "results"), picture(tmp_path)
    with torch.inference_mode():
        wanted = net.decode(net(image), SIZE)
    found = run(tmp_path, tmp_path / "made")
    assert list(found) == [one["name"] for one in contract["outputs"]] == ["classes"]
    assert list(found["classes"].shape) == contract["outputs"][0]["shape"] == [1, *SIZE]
    assert (found["classes"] == wanted).float().mean() > 0.999
    assert len(wanted.unique()) > 1
    assert contract["classes"] == list(net.classes)
    assert contract["input"] | {"shape": [1, 3, *SIZE], "layout": "NCHW", "range": [0, 1]} == contract["input"]
    assert sorted(contract["files"]) == sorted(
        one.name for one in (tmp_path / "made").iterdir() if one.name not in ("contract.json", "run.py")
    )
    assert ("opset" in contract) == (runtime == "onnxruntime")


def test_a_detector_gives_boxes_after_nms(trained, tmp_path):
    weights = trained("fcos_pico")
    export("vit_pico", "fcos_pico", "--runtime", "onnxruntime", "--out", "made", "--weights", weights)
    net, image = bench.load_model(weights.removeprefix("trained:"), tmp_path / "results"), picture(tmp_path)
    with torch.inference_mode():
        (wanted,) = net.decode(net(image), SIZE)
    found = run(tmp_path, tmp_path / "made")
    assert list(found) == ["boxes", "scores", "labels"]
    (boxes,) = prediction(tuple(found.values()))
    assert isinstance(wanted, Boxes)
    assert 0 < len(wanted.labels) == len(boxes.labels)
    assert torch.allclose(boxes.xyxy, wanted.xyxy, atol=1e-2)
    assert torch.allclose(boxes.scores, wanted.scores, atol=1e-4)


def test_where_decoding_cannot_be_in_the_graph_it_ends_in_the_raw_output(tmp_path, monkeypatch):
    from backbones.contract import Unsupported
    from heads.linear import Linear

    def refuses(*_):
        raise Unsupported("no fixed shapes")

    monkeypatch.setattr(Linear, "deploy", refuses)
    said = export(
        "vit_pico", "linear", "--runtime", "onnxruntime", "--out", "made", "--resolution", "64", "--classes", "3"
    )
    assert "no fixed shapes" in said
    assert "random weights" in said
    contract = json.loads((tmp_path / "made" / "contract.json").read_text())
    assert not contract["decoded"]
    assert contract["outputs"][0] | {"name": "raw0", "dtype": "float32"} == contract["outputs"][0]
    assert contract["outputs"][0]["deviation"] < 1e-3
    assert contract["classes"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vit_pico", "linear", "--runtime", "onnx"), "unknown runtime 'onnx': did you mean onnxruntime"),
        (("vit_pico", "linear", "--runtime", "torch"), "nothing to export"),
        (("vit_pico", "linear", "--runtime", "openvino", "--dtype", "tf32"), "no dtype tf32; it has fp32"),
        (("vit_pico", "linear", "--runtime", "openvino", "--device", "cuda"), "no device cuda; it has cpu"),
        (("vit_pic", "linear", "--runtime", "openvino"), "unknown backbone 'vit_pic': did you mean vit_pico"),
        (("vit_pico", "linear", "--runtime", "openvino", "--resolution", "65"), "nearest: 64x64"),
        (("vit_pico", "linear", "--runtime", "openvino", "--weights", "trained:abcdef"), "no kept model begins with"),
        (
            ("vit_pico", "linear", "--runtime", "onnxruntime", "--classes", "3", "--quantise", "int8-static"),
            "name a --dataset",
        ),
    ],
    ids=lambda one: " ".join(one[-2:]) if isinstance(one, tuple) else "",
)
def test_what_cannot_be_exported_is_said(words, said, tmp_path):
    assert said in export(*words, "--out", "made", code=2)
    assert not (tmp_path / "made").exists()


def test_a_kept_model_is_exported_as_it_is(trained):
    weights = trained("linear")
    common = ("--runtime", "onnxruntime", "--out", "made", "--weights", weights)
    assert "is vit_pico under linear, not" in export("vit_pico", "fcos_pico", *common, code=2)
    assert "was trained as" in export("vit_pico", "linear", *common, "--resolution", "32", code=2)
    assert "--classes is for" in export("vit_pico", "linear", *common, "--classes", "4", code=2)


def test_nothing_that_lies_there_is_lost(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("all")
    words = ("vit_pico", "linear", "--runtime", "onnxruntime", "--resolution", "64", "--out", "made")
    assert "not empty" in export(*words, code=2)
    assert [one.name for one in (tmp_path / "made").iterdir()] == ["thesis.txt"]
    assert "is a file" in export(*words[:-1], "made/thesis.txt", code=2)
