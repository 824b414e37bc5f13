"""The accuracy of what is deployed: exported and quantised models, of one training."""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backbones.contract import Unsupported
from bench.measures import accuracy
from bench.model import deployment
from bench.plan import runtimes
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.plan.measure import CALIBRATION, IMAGES, MODEL, OPSET, TRAINING, Context, Outcome
from bench.stats.overlap import Overlaps
from bench.store import images
from tests.bench.records import CELL

Measured = Callable[..., Outcome]
LOSS, LOW, HIGH = "deployment_loss", "deployment_loss_low", "deployment_loss_high"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images are drawn once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """Seeds of the trainings that are begun."""
    begun, train = [], accuracy.train

    def counted(*args, **named):
        begun.append(named["seed"])
        return train(*args, **named)

    monkeypatch.setattr(accuracy, "train", counted)
    return begun


@pytest.fixture
def measured(cache: Path, tmp_path: Path, monkeypatch, trainings) -> Measured:
    """Evaluate a cell of the smoke recipe, whose weights are shared by the cells of a test."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "exported"))
    small = Cell(**{**CELL, "recipe": "smoke+val_images=8", "height": 32, "width": 32})

    def run(*, said=None, report=lambda *_: None, **fields: object) -> Outcome:
        cell = replace(small, **fields)
        shared = tmp_path / "trained" / "training.json"
        say = (lambda _: None) if said is None else said.append
        folders = {"images": tmp_path / "images", "shared": shared}
        return accuracy.measure(cell, Context(report, 1, resolve(cell, cache=cache), say=say, **folders))

    return run


def test_runtimes_share_a_training_and_fp32_is_as_accurate_as_in_torch(measured, trainings, tmp_path) -> None:
    whole = measured()
    plain = whole.values
    assert LOSS not in plain
    for runtime in ("onnxruntime", "openvino"):
        # A mode of torch that came with the cell is none of the runtime's.
        outcome = measured(runtime=runtime, compile="default", memory_format="channels_last")
        values = outcome.values
        for column in ("miou", "pixel_accuracy", "foreground_miou"):
            assert values[column] == pytest.approx(plain[column], abs=0.05), runtime
        assert values[LOSS] == pytest.approx(plain["miou"] - values["miou"], abs=1e-6)
        assert values[LOW] <= values[LOSS] <= values[HIGH]
        assert values[TRAINING] == plain[TRAINING]
        assert values["train_s"] == plain["train_s"]
        assert outcome.samples == whole.samples
        assert values.get(OPSET) == ("20" if runtime == "onnxruntime" else None)
        kept = [Overlaps.from_arrays(images.read(tmp_path / "images", str(one[IMAGES]))) for one in (plain, values)]
        assert kept[0].images.tolist() == kept[1].images.tolist(), "claims are paired by them"
    assert trainings == [0]


@pytest.mark.parametrize(
    ("runtime", "quantise"),
    [
        ("onnxruntime", "int8-static"),
        ("onnxruntime", "int8-dynamic"),
        ("openvino", "int8-static"),
        ("openvino", "int8-weights"),
        ("torch", "int8-dynamic"),
        ("torch", "int8-weights"),
    ],
)
def test_what_is_quantised_says_what_it_loses(measured, trainings, monkeypatch, runtime, quantise) -> None:
    values = measured(runtime=runtime, quantise=quantise).values
    assert values[LOW] <= values[LOSS] <= values[HIGH]
    assert values.get(CALIBRATION) == ("64 images of train, seed 0" if quantise == "int8-static" else None)
    # Evaluated alone and again: the loss is that of these weights.
    plain = measured().values
    assert values[LOSS] == pytest.approx(plain["miou"] - values["miou"], abs=1e-6)
    assert values[TRAINING] == plain[TRAINING]
    assert trainings == [0]
    other = {name: value for name, value in values.items() if isinstance(value, float)}
    assert any(plain[name] != value for name, value in other.items() if name != "train_s"), "int8 is no fp32"


def test_a_detector_loses_ap(measured) -> None:
    values = measured(head="fcos_pico", height=64, width=64, quantise="int8-weights").values
    assert values[LOSS] == pytest.approx(
        measured(head="fcos_pico", height=64, width=64).values["ap"] - values["ap"], abs=1e-6
    )


def test_what_has_nothing_to_narrow_is_unsupported(measured) -> None:
    with pytest.raises(Unsupported, match="torchao narrows linear layers, and this model has none"):
        measured(backbone="cnn_pico", patch=4, quantise="int8-dynamic")
    with pytest.raises(Unsupported, match="ONNX Runtime found nothing to narrow to int8-dynamic"):
        measured(backbone="cnn_pico", patch=4, runtime="onnxruntime", quantise="int8-dynamic")


def test_what_cannot_be_had_is_said_before_a_training(measured, trainings, monkeypatch) -> None:
    with pytest.raises(Unsupported, match="runtime torch has no quantise int8-static; it has none, int8-dynamic"):
        measured(quantise="int8-static")
    there = runtimes.installed
    monkeypatch.setattr(runtimes, "installed", lambda name: "" if name == "nncf" else there(name))
    wanted = r"quantise int8-static of runtime openvino needs nncf.*: pip install 'densebench\[openvino,quantise\]'"
    with pytest.raises(Unsupported, match=wanted):
        measured(runtime="openvino", quantise="int8-static")
    assert trainings == []


def test_weights_are_those_that_a_kept_model_has(measured, cache, tmp_path) -> None:
    values = measured(quantise="int8-weights").values
    cell = Cell(**{**CELL, "recipe": "smoke+val_images=8", "height": 32, "width": 32})
    (folder := tmp_path / "models").mkdir()
    alone = accuracy.measure(cell, Context(lambda *_: None, 1, resolve(cell, cache=cache), models=folder))
    assert alone.values[MODEL] == values[TRAINING]
    assert TRAINING not in alone.values


@pytest.mark.parametrize("broken", ["weights", "json"])
def test_kept_weights_that_are_damaged_are_trained_again(measured, trainings, tmp_path, broken) -> None:
    first, said = measured().values, []
    (path,) = (tmp_path / "trained").glob("*.safetensors" if broken == "weights" else "*.json")
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    again = measured(said=said).values
    assert (again["miou"], again[TRAINING]) == (first["miou"], first[TRAINING])
    assert trainings == [0, 0]
    assert len(said) == 1
    assert "cannot be used" in said[0]
    measured(said=said)
    assert trainings == [0, 0], "what was made anew is whole"


def test_a_folder_that_cannot_be_written_to_costs_the_others_their_time_alone(measured, trainings, tmp_path) -> None:
    (tmp_path / "trained").write_text("a file")
    said = []
    values = measured(said=said, quantise="int8-weights").values
    assert isinstance(values[LOSS], float)
    assert TRAINING not in values
    assert "other runtimes and quantisations of them train again" in said[-1]


def test_who_needs_a_training_that_is_being_made_waits(measured, trainings, tmp_path) -> None:
    made = measured().values
    file = tmp_path / "trained" / "training.json"
    told = file.read_text()
    file.unlink()
    other = os.open(file.with_suffix(".lock"), os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    stages = []

    def report(stage, *_):
        stages.append(stage)
        if stage == "waiting for its training":
            file.write_text(told)
            fcntl.flock(other, fcntl.LOCK_UN)

    assert measured(report=report).values[TRAINING] == made[TRAINING]
    os.close(other)
    assert "waiting for its training" in stages
    assert trainings == [0]
    assert json.loads(told)["model"] == made[TRAINING]


def test_images_to_calibrate_by_are_of_train_and_always_the_same(cache) -> None:
    cell = Cell(**{**CELL, "recipe": "smoke", "height": 32, "width": 32})
    case = resolve(cell, cache=cache)
    net = deployment.build.of_case(case)
    found, said = deployment.calibration(net, case.split("train"), case.recipe, size=(32, 32), count=5, seed=3)
    assert said == "5 images of train, seed 3"
    assert {tuple(image.shape) for image in found} == {(1, 3, 32, 32)}
    again, _ = deployment.calibration(net, case.split("train"), case.recipe, size=(32, 32), count=5, seed=3)
    assert all((one == other).all() for one, other in zip(found, again, strict=True))
    other, _ = deployment.calibration(net, case.split("train"), case.recipe, size=(32, 32), count=5, seed=4)
    assert any((one != another).any() for one, another in zip(found, other, strict=True))
    data = case.split("train")
    known = [data.sample(index, (32, 32)).image.transpose(2, 0, 1) / 255 for index in range(len(data))]
    assert all(any(abs(image[0].numpy() - one).max() < 1e-6 for one in known) for image in found)
