"""Recipes by name and as files of the user's."""

from dataclasses import replace

import pytest

from bench import run
from bench.errors import UserError
from bench.plan import matrix, recipe
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.store.store import Store

HERE = replace(describe(), gpus=[], cores=2)
MINE = "[segmentation]\nsteps = 3\nbatch = 2\nlr = 1e-3\n"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No file is known but the test's own."""
    monkeypatch.setattr(recipe, "_FILES", {})
    recipe.load.cache_clear()
    recipe.digest.cache_clear()
    yield
    recipe.load.cache_clear()
    recipe.digest.cache_clear()


def keys(tmp_path, path):
    """Keys and recipe files of the accuracies that a run with this recipe asks for."""
    axes = {"recipe": [str(path)], "backbone": ["vit_pico"], "head": ["linear"], "measure": ["accuracy"], "seed": ["0"]}
    planned = run.plan(matrix.load("default").override(axes), HERE, Store(tmp_path / "none"), Roots()).planned
    return {one.job.key for one in planned}, {one.job.recipe for one in planned}, {one.job.title() for one in planned}


def test_a_file_is_a_recipe_by_its_content_wherever_it_lies(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f"# {folder}\n{MINE}")
    (tmp_path / "c" / "mine.toml").write_text(MINE.replace("steps = 3", "steps = 4"))
    found = []
    for folder in ("a", "b", "c"):
        recipe._FILES.clear()
        recipe.load.cache_clear()
        recipe.digest.cache_clear()
        asked, files, titles = keys(tmp_path, tmp_path / folder / "mine.toml")
        assert files == {tmp_path / folder / "mine.toml"}
        assert not any(str(tmp_path) in text for text in (*asked, *titles)), "no folder of anybody's"
        found.append(asked)
    assert found[0] == found[1], "a comment and a place make no other recipe"
    assert not found[0] & found[2], "another number does"


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(MINE)
    recipe.check(str(tmp_path / "a" / "mine.toml"))
    with pytest.raises(UserError, match=r"two recipes are called mine\.toml.*rename one"):
        recipe.check(str(tmp_path / "b" / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[segmentation\n", "mine.toml cannot be read"),
        (MINE + "stesp = 4\n", r"mine.toml, \[segmentation\] stesp"),
        (MINE.replace("steps = 3", 'steps = "many"'), r"\[segmentation\] steps: .*came: 'many'"),
        ("segmentation = 3\n", "is a table of a recipe's numbers, 3 came"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_before_anything_runs(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        recipe.check(str(tmp_path / "mine.toml"))


def test_a_recipe_without_a_table_for_the_task_says_which_it_has(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    name = recipe.check(str(tmp_path / "mine.toml"))
    assert name == "mine.toml"
    assert recipe.load(name, "segmentation").steps == 3
    with pytest.raises(UserError, match=r"no table \[detection\]; it has segmentation"):
        recipe.load(name, "detection")
