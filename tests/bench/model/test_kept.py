"""Models that are kept: what is written can be opened, used, started from, and is refused where it does not fit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import bench
from bench.errors import UserError
from bench.model import build, kept
from bench.plan import models, weights
from bench.plan.case import resolve
from bench.plan.cell import Cell
from bench.training.optim import in_training_mode
from tests.bench.records import CELL

SMALL = Cell(**{**CELL, "recipe": "smoke", "height": 64, "width": 64})


@pytest.fixture
def keep(tmp_path):
    """Keeps the model of a cell below ``tmp_path / "results"``, with weights as if it had learned."""

    def made(machine="box", **fields):
        case = resolve(replace(SMALL, **fields), cache=tmp_path / "cache")
        net = build.of_case(case)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        return net, kept.keep(net, case, tmp_path / "results" / machine / models.FOLDER)

    return made


@pytest.mark.parametrize(("backbone", "patch", "head"), [("vit_pico", 16, "linear"), ("swin_pico", 4, "fcos_pico")])
def test_a_kept_model_predicts_as_the_one_that_was_trained(keep, tmp_path, backbone, patch, head):
    net, digest = keep(backbone=backbone, patch=patch, head=head)
    drawn = torch.get_rng_state()
    found = bench.load_model(digest[:6], tmp_path / "results")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not found.training
    assert found.classes == resolve(replace(SMALL, head=head), cache=tmp_path / "cache").split("train").classes
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        one, other = net.eval()(image), found(image)
    for a, b in zip(net.head.smooth(one), found.head.smooth(other), strict=True):
        assert torch.equal(a, b)


def test_a_model_that_was_kept_before_its_levels_had_norms_opens_as_it_was(tmp_path):
    case = resolve(replace(SMALL, backbone="swin_pico", patch=4, head="dpt_pico"), cache=tmp_path / "cache")
    net = build.of_case(case)
    assert net.backbone.norms is not None
    net.backbone.norms = None
    digest = kept.keep(net, case, tmp_path / "models")
    found, image = bench.load_model(tmp_path / "models" / f"{digest}.safetensors"), torch.rand(1, 3, 64, 64)
    assert torch.equal(found(image), net.eval()(image))


def test_a_model_with_an_auxiliary_head_is_opened_too(tmp_path):
    cell = replace(SMALL, head="upernet_pico", recipe="smoke+aux_heads=true")
    case = resolve(cell, cache=tmp_path / "cache")
    net = build.of_case(case)
    in_training_mode(net, case.recipe)
    digest = kept.keep(net, case, tmp_path / "models")
    found, image = bench.load_model(tmp_path / "models" / f"{digest}.safetensors"), torch.rand(1, 3, 64, 64)
    assert torch.equal(found(image), net.eval()(image))


def test_equal_models_are_one_file_and_what_it_says_comes_back(keep, tmp_path):
    torch.manual_seed(0)
    _, digest = keep()
    (path,) = (tmp_path / "results" / "box" / models.FOLDER).iterdir()
    assert path.stem == digest
    one = models.opened(path)
    assert (one.cell, one.task, one.background) == (SMALL, "segmentation", 0)
    assert one.recipe == resolve(SMALL, cache=tmp_path).recipe
    assert len(one.classes) > 2
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}


def test_any_head_patch_and_size_starts_from_a_kept_backbone(keep, tmp_path, monkeypatch):
    net, digest = keep(head="fcos_pico")
    monkeypatch.chdir(tmp_path)
    given = {"weights": f"trained:{digest[:8]}", "classes": 3}
    same = bench.build("vit_pico", "linear", size=(64, 64), **given)
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.backbone.state_dict().values(), same.backbone.state_dict().values(), strict=True)
    )
    other = bench.build("vit_pico", "linear", patch=8, size=(64, 96), **given)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(other.backbone.published.get_parameter(name), net.backbone.published.get_parameter(name))


def test_the_image_statistics_of_the_weights_come_along(keep, tmp_path):
    case = resolve(SMALL, cache=tmp_path / "cache")
    net = build.of_case(case)
    net.backbone.mean.fill_(1 / 3)
    digest = kept.keep(net, case, tmp_path / "models")
    found = bench.load_model(tmp_path / "models" / f"{digest}.safetensors")
    assert torch.equal(found.backbone.mean, net.backbone.mean)


def test_weights_of_another_backbone_are_refused(keep, tmp_path, monkeypatch):
    _, digest = keep()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"trained:{digest} are of vit_pico .* and deit_pico came"):
        bench.build("deit_pico", "linear", size=(64, 64), classes=3, weights=f"trained:{digest}")


def test_names_that_are_none_or_several_are_refused(keep, tmp_path):
    results = tmp_path / "results"
    with pytest.raises(UserError, match=r"no kept model begins with abcdef .*there is none at all"):
        models.find("abcdef", [results])
    torch.manual_seed(0)
    _, first = keep()
    assert models.find(first[:6], [results, results]).stem == first
    folder = results / "other" / models.FOLDER
    folder.mkdir(parents=True)
    copy = results / "box" / models.FOLDER / f"{first}{models.ENDING}"
    (folder / copy.name).write_bytes(copy.read_bytes())
    assert models.find(first[:6], [results]) == copy, "a copy is no second model"
    twin = first[:8] + ("0" if first[8] != "0" else "1") * 8
    (folder / f"{twin}{models.ENDING}").write_bytes(b"")
    with pytest.raises(UserError, match=f"2 kept models begin with {first[:6]}"):
        models.find(first[:6], [results])
    for name in ("abc", "xyzxyz", "ABCDEF"):
        with pytest.raises(UserError, match=f"6 to 16 hexadecimal digits, '{name}' came"):
            models.find(name, [results])
    with pytest.raises(UserError, match="there is no model"):
        models.opened(tmp_path / "none.safetensors")


def test_damaged_and_foreign_files_are_refused(keep, tmp_path):
    _, digest = keep()
    path = tmp_path / "results" / "box" / models.FOLDER / f"{digest}{models.ENDING}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: it has other bytes"):
        bench.load_model(digest, tmp_path / "results")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="is no model that"):
        bench.load_model(foreign)
    foreign.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be read as a kept model"):
        bench.load_model(foreign)


@pytest.mark.parametrize("value", ["trained:", "trained:abc", "trained:xyzxyz", f"trained:{'a' * 17}"])
def test_a_value_of_the_axis_is_hexadecimal_digits(value):
    with pytest.raises(UserError, match="unknown weights"):
        weights.check(value)
    assert weights.check("trained:0a1b2c") == "trained:0a1b2c"
