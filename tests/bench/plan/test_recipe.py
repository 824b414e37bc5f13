import json
import pickle
from pathlib import Path

import pytest

from bench import catalogue, run
from bench.errors import UserError
from bench.plan import matrix, recipe
from bench.plan.case import resolve
from bench.plan.dataset import Roots
from bench.store.store import Store
from tests.bench.test_run import HERE, Launcher, go

ROOT = Path(__file__).parents[3]
OWN = """
[segmentation]
steps = 3
batch = 2
lr = 1e-3
"""


@pytest.fixture
def write(tmp_path):
    def write(text=OWN, name="mine.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def test_committed_records_are_of_the_recipes_as_they_are():
    """What makes a recipe of the house another question costs hours of measuring."""
    last = {}
    for path in ROOT.glob("results/*/records.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            name, head = record["fields"].get("recipe"), record["fields"].get("head")
            if name in recipe.names():
                last[name, catalogue.get("heads", head).facts["task"]] = record["inputs"]["recipe"]
    assert len(last) > 2
    assert {key: recipe.digest(*key) for key in last} == last


def test_a_file_is_named_by_its_stem_and_content(write, tmp_path, monkeypatch):
    name, stated = recipe.resolve(write(), "segmentation")
    assert name.startswith("mine@")
    assert str(tmp_path) not in name
    assert stated.steps == 3
    commented = "# Only a comment.\n" + OWN + "[detection]\nsteps = 9\nbatch = 1\nlr = 1\n"
    assert recipe.resolve(write(commented), "segmentation")[0] == name
    assert recipe.resolve(write(OWN.replace("3", "4", 1)), "segmentation")[0] != name
    assert recipe.resolve(write(name="other/mine.toml"), "segmentation")[0] == name, "the same, wherever it lies"
    assert recipe.resolve(write(name="a | b.toml"), "segmentation")[0].startswith("a_b@"), "no table is torn"
    monkeypatch.chdir(tmp_path)
    write()
    assert recipe.resolve("mine.toml", "segmentation") == (name, stated), "relative to where it is run"
    assert recipe.resolve("short", "segmentation") == ("short", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps", "stesp"), r"mine.toml, \[segmentation\]: unknown key 'stesp': did you mean steps"),
        (("steps = 3", "steps = 0"), r"mine.toml, \[segmentation\] steps: .*greater than or equal to 1 \(came: 0\)"),
        (("steps = 3", ""), r"mine.toml, \[segmentation\] steps: Field required"),
        (("[segmentation]", "[segmentaton]"), r"mine.toml: unknown table 'segmentaton': did you mean segmentation"),
        (("[segmentation]", "detection = 3\n[segmentation]"), r"mine.toml: \[detection\] has to be a table .* 3 came"),
        (("[segmentation]", "[segmentation"), r"mine.toml is no TOML: .*line 2"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(write, change, message):
    with pytest.raises(UserError, match=message):
        recipe.check(write(OWN.replace(*change, 1)))


def test_what_is_no_recipe_is_said(write, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"unknown recipe 'shrt': did you mean short or scratch\? there is: FILE.toml, "
    ):
        recipe.check("shrt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"recipe nowhere.toml cannot be read: .*looked from {tmp_path}"):
        recipe.check("nowhere.toml")
    with pytest.raises(UserError, match=r"mine.toml has no table \[detection\]; it has segmentation"):
        recipe.load(write(), "detection")


def test_a_run_by_a_file_knows_it_by_content(write, tmp_path, monkeypatch):
    path = write()
    axes = {
        "backbone": "vit_pico",
        "patch": "16",
        "resolution": "32",
        "head": "linear",
        "measure": "accuracy",
        "seed": "0",
    }
    asked = matrix.load("default").override({axis: [value] for axis, value in axes.items()})
    launcher, store = Launcher(monkeypatch), Store(tmp_path / "m")
    go(asked.override({"recipe": [path]}), store, tmp_path)
    (job,) = launcher.jobs
    name, stated = recipe.resolve(path, "segmentation")
    assert job.cell.recipe == name
    assert pickle.loads(pickle.dumps(job)).recipe == stated
    assert resolve(job.cell, cache=tmp_path, stated=job.recipe).recipe == stated
    (record,) = store.records()
    assert record.inputs["recipe"].startswith(name.partition("@")[2])
    assert str(tmp_path) not in record.line()
    again = asked.override({"recipe": [write(name="elsewhere/mine.toml")]})
    assert run.plan(again, HERE, store, Roots()).todo == []
    edited = asked.override({"recipe": [write(OWN.replace("3", "4", 1))]})
    assert len(run.plan(edited, HERE, store, Roots()).todo) == 1


def test_a_recipe_for_one_task_leaves_the_heads_of_the_other_out(write, tmp_path, monkeypatch):
    axes = {"backbone": ["vit_pico"], "measure": ["accuracy"], "recipe": [write()], "seed": ["0"], "patch": ["16"]}
    asked = matrix.load("default").override({**axes, "resolution": ["32"], "head": ["linear", "fcos_pico"]})
    Launcher(monkeypatch)
    plan, summary = go(asked, Store(tmp_path / "m"), tmp_path)
    assert {title.split()[2] for title in summary.missing_numbers} == {"fcos_pico"}, "named, so it is a row"
    assert "states nothing for detection" in next(iter(summary.missing_numbers.values())).reason
    assert not any("recipe" in planned.job.vary for planned in plan.planned), "one file is one recipe"
    crossed = matrix.load("default").override({**axes, "resolution": ["32"]})
    _, summary = go(crossed, Store(tmp_path / "n"), tmp_path)
    assert summary.missing_numbers == {}
    assert list(summary.left_out) == ["scenes with head fcos_pico"]


def test_a_matrix_file_names_recipes_that_lie_beside_it(write, tmp_path, monkeypatch):
    write(name="there/mine.toml")
    (tmp_path / "there" / "question.toml").write_text(
        'question = "?"\n[[grid]]\nbackbone = "vit_pico"\nhead = "linear"\nresolution = 32\n'
        'recipe = ["mine.toml", "short"]\n'
    )
    monkeypatch.chdir(tmp_path)
    loaded = matrix.load("there/question.toml")
    names = {cell.recipe for cell, _ in loaded.cells(HERE)}
    assert names == {"there/mine.toml", "short"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("pipeline = 1\nmeet = 'crop'", r"mine.toml, \[segmentation\]: pipeline 1 can only stretch"),
        ("pipeline = 1\nflip = 'data'", "pipeline 1 can only stretch"),
        ("pipeline = 3", r"pipeline: Input should be 1 or 2 \(came: 3\)"),
        ("meet = 'strech'", r"meet: Input should be 'stretch', 'crop' or 'letterbox' \(came: 'strech'\)"),
        ("windows = 0.5", "windows go with meet = 'crop', not with 'stretch'"),
        ("meet = 'crop'\nwindows_zoom = 2.0", "say how far apart they are"),
        ("meet = 'crop'\nwindows = 0", "windows: Input should be greater than 0"),
        ("scale = [2.0, 1.0]", r"scale is a range of zooms above 0, the smaller first; \[2.0, 1.0\] came"),
        ("flip = 'yes please'", r"flip.*came: 'yes please'"),
    ],
)
def test_what_does_not_go_together_is_said(write, lines, message):
    with pytest.raises(UserError, match=message):
        recipe.check(write(OWN + lines))


def test_windows_are_no_way_to_find_boxes(write):
    with pytest.raises(UserError, match=r"\[detection\]: windows are of segmentation"):
        recipe.check(write(OWN.replace("segmentation", "detection") + "meet = 'crop'\nwindows = 0.5"))


def test_the_pipeline_is_part_of_a_recipe_and_the_first_goes_without_saying(write):
    first, second = (recipe.load(write(OWN + line), "segmentation") for line in ("pipeline = 1", "pipeline = 2"))
    unsaid = recipe.load(write(), "segmentation")
    assert unsaid.pipeline == 2
    assert recipe.digest_of(unsaid) == recipe.digest_of(second) != recipe.digest_of(first)


def test_changed_fields_make_another_recipe_that_goes_by_the_whole_text(write):
    value = "scratch+train_share=0.25+scale=[0.5, 2.0]+meet=crop"
    assert recipe.check(value) == value
    called, stated = recipe.resolve(value, "segmentation")
    assert called == value
    assert (stated.train_share, stated.scale, stated.meet) == (0.25, (0.5, 2.0), "crop")
    assert stated.lr == recipe.load("scratch", "segmentation").lr
    assert recipe.load(value, "segmentation") == stated
    assert recipe.digest_of(stated) != recipe.digest("scratch", "segmentation")
    assert "25 % of the training images" in stated.in_words()
    called, stated = recipe.resolve(write() + "+steps=9", "segmentation")
    assert called.startswith("mine@")
    assert called.endswith("+steps=9")
    assert stated.steps == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("scratch+step=3", "unknown key 'step': did you mean steps"),
        ("scratch+steps=none", "steps"),
        ("scrach+steps=3", "did you mean scratch"),
    ],
)
def test_a_mistake_in_a_change_is_named(value, message):
    with pytest.raises(UserError, match=message):
        recipe.check(value)


def test_which_weights_a_recipe_is_for_changes_no_digest(write):
    with_start = OWN.replace("steps", 'start = "random"\nsteps')
    one, other = recipe.load(write(), "segmentation"), recipe.load(write(with_start, "b.toml"), "segmentation")
    assert recipe.digest_of(one) == recipe.digest_of(other)
    assert recipe.unsuited(one, "pretrained") == ""
    assert "random weights" in recipe.unsuited(other, "pretrained")
    assert "pretrained weights" in recipe.unsuited(recipe.load("probe", "detection"), "random")


def test_a_recipe_that_is_not_for_the_weights_is_refused_with_those_that_are(tmp_path, monkeypatch):
    axes = {
        "backbone": ["vit_tiny"],
        "weights": ["pretrained"],
        "resolution": ["32"],
        "head": ["linear"],
        "patch": ["16"],
    }
    asked = matrix.load("default").override({**axes, "measure": ["accuracy"], "seed": ["0"]})
    Launcher(monkeypatch)
    store = Store(tmp_path / "m")
    with pytest.raises(UserError, match="--recipe finetune_segmentation, probe, or --force"):
        run.plan(asked, HERE, store, Roots())
    assert len(run.plan(asked, HERE, store, Roots(), force=True).todo) == 1
    assert len(run.plan(asked.override({"recipe": ["probe"]}), HERE, store, Roots()).todo) == 1
    cost = matrix.load("default").override({**axes, "measure": ["complexity"]})
    assert len(run.plan(cost, HERE, store, Roots()).todo) == 1, "what does not train does not care"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("freeze = true\nlayer_decay = 0.8\n", "a frozen backbone has no backbone_lr"),
        ('freeze = true\nstart = "random"\n', "learns nothing"),
        ("pipeline = 1\nblur = 0.5\n", "of pipeline 2"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(write, lines, message):
    with pytest.raises(UserError, match=message):
        recipe.load(write(OWN + lines), "segmentation")
