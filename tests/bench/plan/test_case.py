"""A cell's names are looked up once."""

import pytest

from bench import catalogue
from bench.errors import UserError
from bench.plan import case as cases
from tests.bench.launchers.test_local import job


def test_a_case_holds_what_its_cell_names(tmp_path):
    case = cases.resolve(job("accuracy", head=["mask_rcnn_pico"], recipe=["smoke"]).cell, cache=tmp_path)
    assert (case.backbone.name, case.head.name, case.data.name) == ("vit_pico", "mask_rcnn_pico", "scenes")
    assert (case.task, case.masks) == ("detection", True)
    assert case.recipe.steps > 0
    val = case.split("val")
    assert tuple(case.classes) == val.classes
    assert val.truth(0).masks is not None


def test_what_it_holds_is_looked_up_once(tmp_path, monkeypatch):
    cell = job("accuracy").cell
    asked = []
    real = catalogue.get
    monkeypatch.setattr(catalogue, "get", lambda kind, name: asked.append(kind) or real(kind, name))
    case = cases.resolve(cell, cache=tmp_path)
    asked_at_the_door = sorted(asked)
    for _ in range(2):
        assert case.recipe.steps
        assert len(case.classes)
        case.split("train")
    assert sorted(asked) == asked_at_the_door == ["backbones", "data", "heads"]


def test_a_name_that_nothing_has_is_said_at_the_door(tmp_path):
    cell = job("accuracy").cell
    object.__setattr__(cell, "head", "liner")
    with pytest.raises(UserError, match="did you mean linear"):
        cases.resolve(cell, cache=tmp_path)
