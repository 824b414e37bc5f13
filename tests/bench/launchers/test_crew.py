"""The Ray launcher's own decisions, on a cluster that is made up: who gets what, and what a loss costs."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.launchers import _cluster, _node, ray
from bench.launchers._cluster import Lost, Node
from bench.launchers.contract import Finished, Progress, Said, Settings, Started
from bench.plan.environment import describe
from tests.bench.launchers.test_bundles import job

HERE = replace(describe(), cores=1, comparable="ours")
US = _node.About(HERE, _node.code(), "kernel")


@dataclass
class Made:
    """A cluster whose nodes do as they are told.

    about: name -> what a node says of itself, and what it lacks. dies: name -> keys of the jobs that it is lost in.
    joins: names of nodes that come when one was lost. bundles: (node, keys), as they were given.
    """

    about: dict = field(default_factory=dict)
    dies: dict = field(default_factory=dict)
    joins: list = field(default_factory=list)
    bundles: list = field(default_factory=list)
    anchors: list = field(default_factory=list)
    ended: list = field(default_factory=list)
    names: list = field(default_factory=list)
    file: tuple = ()

    def nodes(self):
        return [Node(name, name, 1.0, 0.0) for name in self.names]

    def meet(self, node, needs):
        return ("met", node.name)

    def reserve(self, node):
        return ("agent", node.name)

    def arrived(self, agent):
        return ("arrived", agent[1])

    def ready(self, waited, seconds):
        return waited

    def answer(self, reference):
        return self.about.get(reference[1], (US, "")) if reference[0] == "met" else US

    def run(self, agent, jobs, settings):
        self.bundles.append((agent[1], [one.key for one in jobs]))
        self.anchors.append({kind: one.key for kind, one in settings.anchors.items()})
        return Stream(self._events(agent[1], jobs))

    def next(self, stream):
        return next(stream.batches, None)

    def _events(self, name, jobs):
        yield _node.Batch(tuple(Started(replace(one, root=Path("/theirs"))) for one in jobs))
        for one in jobs:
            if one.key in self.dies.get(name, ()):
                self.names.remove(name)
                self.names += self.joins[:1]
                del self.joins[:1]
                raise Lost("it burnt down")
            values = {"x": 1.0, "images": "0" * 16, "session": "now/1"}
            yield _node.Batch((Finished(one, "ok", "", "", 1.0, values, environment=HERE),), self.file)

    def end(self, agent):
        self.ended.append(agent)


class Stream:
    def __init__(self, batches):
        self.batches = batches


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "LOOK_S", 0.0)
    monkeypatch.setattr(ray, "POLL_S", 0.0)
    monkeypatch.setattr(ray, "PATIENCE_S", 0.05)
    settings = Settings(tmp_path, tmp_path / "pictures", 60.0, images=tmp_path / "images", comparable="ours")

    def launch(made, jobs):
        monkeypatch.setattr(_cluster, "Cluster", lambda address: made)
        return ray.launch(jobs, settings)

    return launch


def ends(events):
    return {event.job.key: event.status for event in events if isinstance(event, Finished)}


def test_what_a_lost_node_has_not_done_is_done_by_another(launch, capsys):
    made = Made(names=["a", "b"], dies={"a": ["j1"]})
    asked = [job(f"j{index}") for index in range(6)]
    events = list(launch(made, asked))
    assert ends(events) == dict.fromkeys((one.key for one in asked), "ok")
    assert [one.job.key for one in events if isinstance(one, Finished)].count("j0") == 1, "what has ended is not redone"
    assert any(
        "node a was lost (it burnt down); it is tried again" in one.text for one in events if isinstance(one, Said)
    )
    assert any("waiting for another" in one.stage for one in events if isinstance(one, Progress))
    assert {one.job.root for one in events} == {None}, "jobs are ours, whatever their paths are on the node"
    assert all(event.environment == HERE for event in events if isinstance(event, Finished))


def test_a_job_that_takes_every_node_with_it_is_an_error_that_names_them_and_costs_no_other(launch):
    names = ["a", "b", "c", "d"]
    made = Made(names=["a"], joins=["b", "c", "d"], dies={name: ["bad"] for name in names})
    events = list(launch(made, [job("good"), job("bad"), job("fine")]))
    assert ends(events) == {"good": "ok", "bad": "error", "fine": "ok"}
    (bad,) = (one for one in events if isinstance(one, Finished) and one.status == "error")
    assert bad.reason == "its node was lost 3 times while it ran (a, b, c); at last: it burnt down"


def test_without_any_node_what_ran_is_an_error_and_the_run_says_what_is_missing(launch):
    made = Made(names=["a"], dies={"a": ["j0"]})
    asked = [job(f"j{index}", exclusive=True) for index in range(4)]  # two at first
    events = []
    with pytest.raises(UserError, match=r"no node .*lost: it burnt down\); 2 measurements are missing"):
        events.extend(one for one in launch(made, asked) if events.append(one) is None)
    assert ends(events) == {"j0": "error", "j1": "error"}
    assert made.ended == [("agent", "a")]


def test_a_node_that_cannot_even_begin_is_left_after_some_attempts(launch, capsys):
    made = Made(names=["a"])
    made.arrived = lambda agent: ("burnt", agent[1])
    answer = made.answer

    def lost(reference):
        if reference[0] == "burnt":
            raise Lost("its process ended with exit code 1")
        return answer(reference)

    made.answer = lost
    with pytest.raises(UserError, match=r"no node .*exit code 1\); 1 measurements are missing"):
        list(launch(made, [job("x")]))
    assert len(made.ended) == ray.FAILURES
    assert "node a was lost (its process ended with exit code 1)" in capsys.readouterr().err


def test_only_nodes_that_are_like_the_planned_machine_take_part(launch):
    other = replace(US, environment=replace(HERE, comparable="another kind"))
    made = Made(names=["a", "b"], about={"a": (other, "")})
    assert set(ends(launch(made, [job("x"), job("y")])).values()) == {"ok"}
    assert {name for name, _ in made.bundles} == {"b"}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ((US, "it has no folder /data/voc"), "node a: it has no folder /data/voc"),
        ((replace(US, code="0123"), ""), "node a: its densebench is another one"),
    ],
)
def test_a_node_that_lacks_something_is_named_before_anything_is_measured(launch, about, said):
    made = Made(names=["a", "b"], about={"a": about})
    with pytest.raises(UserError, match=said):
        list(launch(made, [job("x")]))
    assert not made.bundles


def test_one_that_joins_and_lacks_something_is_passed_over(launch, capsys):
    made = Made(names=["a", "b"], joins=["c"], dies={"a": ["j1"]}, about={"c": (US, "it has no folder")})
    assert set(ends(launch(made, [job(f"j{index}", exclusive=True) for index in range(9)])).values()) == {"ok"}
    assert "node c has joined and is not used: it has no folder" in capsys.readouterr().err


def test_all_groups_have_one_anchor_and_sessions_of_two_nodes_are_two(launch):
    made = Made(names=["a", "b"])
    asked = [job(f"t{index}", "timed", exclusive=True, interleaved="x_ms") for index in range(20)]
    ended = [one for one in launch(made, asked) if isinstance(one, Finished)]
    assert [len(keys) for _, keys in made.bundles] == [16, 4]
    assert made.anchors == [{("timed", "cpu"): "t0"}] * 2
    places = {(one.values["node"], one.values["session"]) for one in ended}
    assert len(places) == len({node for node, _ in places}) == 2
    assert all(session == f"now/1/{node}" for node, session in places)


def test_files_are_written_here_and_one_that_cannot_be_costs_no_figure(launch, tmp_path):
    made = Made(names=["a"], file=(("images", "0" * 16 + ".npz", b"content"),))
    (ended,) = (one for one in launch(made, [job("x")]) if isinstance(one, Finished))
    assert (tmp_path / "images" / f"{'0' * 16}.npz").read_bytes() == b"content"
    assert ended.values["images"] == "0" * 16
    made.names, made.bundles = ["b"], []
    (tmp_path / "images" / f"{'0' * 16}.npz").unlink()
    (tmp_path / "images").rmdir()
    (tmp_path / "images").write_text("no folder")
    (ended,) = (one for one in launch(made, [job("x")]) if isinstance(one, Finished))
    assert ended.status == "ok"
    assert "images" not in ended.values
    assert "cannot be written to" in ended.values["images_lost"]


def test_closing_the_launcher_ends_what_runs_on_the_nodes(launch):
    made = Made(names=["a", "b"])
    events = launch(made, [job("x"), job("y")])
    next(events)
    events.close()
    assert ("agent", "a") in made.ended
