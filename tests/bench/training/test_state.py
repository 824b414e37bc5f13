"""A training that is cut off goes on as if nothing had happened, and no other one takes its state."""

import os
import time

import pytest
import torch

import bench
from bench.errors import UserError
from bench.store import states
from bench.training.state import DIGEST, Checkpoint, Position
from bench.training.train import train
from tests.bench.training.data import SIZE, Halves
from tests.bench.training.test_train import CPU, recipe

STEPS = 8


class Cut(Exception):
    """The end of a process, as far as a training can tell."""


class Counter:
    """Something with a state of its own that changes with every step."""

    def __init__(self):
        self.value = 0

    def step(self, number):
        self.value = number + 1

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def fit(plan, head="linear", *, file=None, cut=None, question="mine", say=None, counter=None, every=3, workers=0):
    """The trained model and what came of it; ``cut``: the step at which it ends."""
    counter = counter or Counter()

    def report(stage, step, steps, note=""):
        if stage == "training":
            if step == cut:
                raise Cut
            counter.step(step)

    torch.manual_seed(0)
    model = bench.build("vit_pico", head, size=SIZE, classes=2)
    checkpoint = None
    if file is not None:
        checkpoint = Checkpoint(file, question, every_steps=every, say=say or (lambda _: None))
    data = Halves("segmentation" if head == "linear" else "detection")
    told = {"size": SIZE, "dtype": torch.float32, "device": CPU, "seed": 3, "report": report, "workers": workers}
    torch.manual_seed(int.from_bytes(os.urandom(4)))  # whatever the process has drawn before
    return model, train(model, data, plan, **told, checkpoint=checkpoint, state={"counter": counter})


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


VARIED = {"scale": (0.5, 1.5), "flip": True, "jitter": 0.2, "class_weight_power": 0.5, "loss_stride": 2}


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ("linear", {"pipeline": 1}),
        ("linear", {"pipeline": 2}),
        ("linear", {"pipeline": 2, "ema": 0.9, "grad_accumulation": 2}),
        ("fcos_pico", {"pipeline": 1}),
        ("fcos_pico", {"pipeline": 2}),
    ],
)
def test_a_training_that_was_cut_off_goes_on_bit_by_bit(tmp_path, head, changes):
    plan, file = recipe(steps=STEPS, **VARIED, **changes), tmp_path / "training" / "a.state"
    whole, wanted = fit(plan, head)
    with pytest.raises(Cut):
        fit(plan, head, file=file, cut=5)
    with pytest.raises(Cut):
        fit(plan, head, file=file, cut=7, workers=changes["pipeline"] - 1)
    counter = Counter()
    model, trained = fit(plan, head, file=file, counter=counter)
    assert trained.resumed == 6, "the last of every three steps before the cut"
    assert trained.losses == wanted.losses
    assert equal(model, whole)
    assert counter.value == STEPS
    assert wanted.resumed is None


def test_a_frozen_backbone_is_gone_on_with_too(tmp_path):
    plan = recipe(steps=STEPS, freeze=True)
    whole, wanted = fit(plan)
    with pytest.raises(Cut):
        fit(plan, file=tmp_path / "a.state", cut=4)
    model, trained = fit(plan, file=tmp_path / "a.state")
    assert (trained.resumed, trained.losses) == (3, wanted.losses)
    assert equal(model, whole)


def test_what_went_before_the_cut_counts_as_time_of_training(tmp_path, monkeypatch):
    now, plan, read = [0.0], recipe(steps=STEPS, batch=4), Halves.sample
    monkeypatch.setattr("bench.training.train.time.perf_counter", lambda: now[0])

    def slow(self, index, size):
        now[0] += 1
        return read(self, index, size)

    monkeypatch.setattr(Halves, "sample", slow)

    class Slow(Counter):
        def step(self, _):
            now[0] += 5

    _, whole = fit(plan, counter=Slow())
    assert whole.seconds == STEPS * (4 + 5)
    assert whole.waited == pytest.approx(7 * 4 / (STEPS * 9 - 4))
    with pytest.raises(Cut):
        fit(plan, file=tmp_path / "a.state", cut=4, counter=Slow())
    _, trained = fit(plan, file=tmp_path / "a.state", counter=Slow())
    assert trained.seconds == whole.seconds
    assert trained.waited == pytest.approx((2 + 4) * 4 / (STEPS * 9 - 2 * 4)), "the first batch after the cut is free"


def broken(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def shortened(file):
    file.write_bytes(file.read_bytes()[: DIGEST + 100])


@pytest.mark.parametrize(
    ("harm", "question", "reason"),
    [
        (broken, "mine", "it is damaged"),
        (shortened, "mine", "it is damaged"),
        (lambda file: file.write_bytes(b""), "mine", "it is damaged"),
        (lambda _: None, "another", "it is of another training"),
    ],
)
def test_a_state_that_cannot_be_used_is_named_once_and_the_training_is_as_ever(tmp_path, harm, question, reason):
    plan, file, said = recipe(steps=STEPS), tmp_path / "a.state", []
    _, wanted = fit(plan)
    with pytest.raises(Cut):
        fit(plan, file=file, cut=4)
    harm(file)
    _, trained = fit(plan, file=file, question=question, say=said.append)
    assert said == [f"the state of a training in {file} cannot be used ({reason}); it begins from the start"]
    assert (trained.resumed, trained.losses) == (None, wanted.losses)


def test_a_state_whose_parts_do_not_fit_leaves_them_as_they_were(tmp_path):
    said = []
    checkpoint = Checkpoint(tmp_path / "a.state", "mine", say=said.append)
    torch.manual_seed(0)
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    checkpoint.save({"first": small, "second": small}, Position([1.0]), CPU)
    first, second = torch.nn.Linear(2, 2), large
    before = [one.weight.clone() for one in (first, second)]
    drawn = torch.get_rng_state()
    assert checkpoint.restore({"first": first, "second": second}, CPU) is None
    assert all(torch.equal(one.weight, kept) for one, kept in zip((first, second), before, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert "cannot be used (Error(s) in loading state_dict for Linear" in said[0]


def test_a_disk_that_takes_no_state_costs_no_training(tmp_path):
    blocked, said = tmp_path / "file", []
    blocked.write_text("no folder")
    plan = recipe(steps=STEPS)
    _, trained = fit(plan, file=blocked / "a.state", say=said.append, every=1)
    assert trained.losses == fit(plan)[1].losses
    assert len(said) == 1
    assert said[0].startswith(f"the state of a training cannot be kept in {blocked} (")


def test_nothing_of_a_file_that_was_being_written_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fit(recipe(steps=4), file=tmp_path / "a.state", every=1)
    assert list(tmp_path.iterdir()) == []


def test_states_are_written_by_the_clock_and_not_more_often_than_they_are_worth(tmp_path, monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr("bench.training.state.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "a.state", "mine", every_s=100)

    def slow(*_):
        saves.append(now[0])
        now[0] += 10

    monkeypatch.setattr("bench.training.state._write", slow)
    for step in range(1, 60):
        now[0] += 10
        if checkpoint.due(step):
            checkpoint.save({}, Position(), CPU)
    assert saves == [100.0, 310.0, 520.0], "writing took 10 s: 200 s pass before the next"


def test_a_path_is_of_the_question_and_of_the_environment(tmp_path):
    paths = {states.path(tmp_path, question, here) for question in ("a", "b") for here in ("x", "y")}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path / "training"}


def test_old_states_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / states.FOLDER
    folder.mkdir()
    names = ("new.state", "old.state", "old.state.123", "old.txt")
    for name in names:
        (folder / name).write_text("x")
        if name.startswith("old"):
            os.utime(folder / name, (time.time() - 15 * 86400,) * 2)
    states.prune(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["new.state", "old.txt"]
    states.prune(tmp_path / "nowhere")


def test_old_weights_are_removed(tmp_path):
    for age, days in (("new", 0), ("old", 15)):
        path = states.weights(tmp_path, age, "here")
        path.parent.mkdir(exist_ok=True)
        for one in (path, path.with_name(f"{age}.safetensors")):
            one.write_text("x")
            os.utime(one, (time.time() - days * 86400,) * 2)
    states.prune(tmp_path)
    left = {states.weights(tmp_path, "new", "here").name, "new.safetensors"}
    assert {path.name for path in (tmp_path / states.TRAINED).iterdir()} == left


@pytest.mark.parametrize("text", ["-1", "often", "nan"])
def test_a_wrong_interval_is_refused(monkeypatch, text):
    monkeypatch.setenv(states.VARIABLE, text)
    with pytest.raises(UserError, match=f"0 or more; '{text}' came"):
        states.every()
