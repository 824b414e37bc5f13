"""Somebody else's records beside one's own: what is taken, what is refused, and that nothing else changes."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from bench import catalogue, cli
from bench.errors import UserError
from bench.plan import environment as environments
from bench.plan import models
from bench.plan.environment import Environment
from bench.plan.recipe import Recipe
from bench.report.tables import report
from bench.stats.overlap import Overlaps
from bench.store import checks, images
from bench.store.merge import Merged, merge, words
from bench.store.record import Record
from bench.store.store import ENVIRONMENTS, RECORDS, Store
from tests.bench.records import CELL, make, write
from tests.bench.records import environment as stated

PNG = b"\x89PNG\r\n\x1a\n and so on"


def sound(cpu: str = "Test CPU") -> Environment:
    """An environment whose ids are the digests of what it says."""
    found = replace(stated("x", cpu=cpu), git="0123456789ab")
    facts = {name: value for name, value in vars(found).items() if name not in {"id", "comparable", "git"}}
    facts = {name: value for name, value in facts.items() if name not in {"driver", "gpu_memory_gib", "gpu_power_w"}}
    name, comparable = environments._digests(facts, found.git)
    return replace(found, id=name, comparable=comparable)


HERE = sound()


def of(measure: str = "latency", **given: Any) -> Record:
    return make(measure, environment=HERE.id, **given)


@pytest.fixture
def theirs(tmp_path: Path, known: Path) -> Path:
    """A machine's folder with two latencies and an accuracy."""
    records = [of(latency_ms=5.0), of(batch=1, latency_ms=2.0), of("accuracy", miou=40.0, class_iou={"disc": None})]
    return write(tmp_path / "theirs" / "box", records, [HERE])


def into(tmp_path: Path, *sources: Path, **options: Any) -> list[Merged]:
    return list(merge(sources, tmp_path / "mine", **options))


def lines(folder: Path) -> list[str]:
    return (folder / RECORDS).read_text().splitlines()


def reasons(done: Merged) -> dict[str, list[str]]:
    return {f"{one.file}: {one.reason}": one.examples for one in done.refused.values()}


def test_what_is_sound_is_taken_once_and_gives_the_same_tables(theirs: Path, tmp_path: Path) -> None:
    (done,) = into(tmp_path, theirs.parent)
    assert (done.taken, done.there, done.environments, done.refused) == (3, 0, 1, {})
    mine = tmp_path / "mine" / "box"
    assert (mine / RECORDS).read_bytes() == (theirs / RECORDS).read_bytes()
    (again,) = into(tmp_path, theirs)
    assert (again.taken, again.there, again.environments) == (0, 3, 0)
    assert len(lines(mine)) == 3
    for folder in (theirs, mine):
        report(folder)
    assert (mine / "segmentation.csv").read_bytes() == (theirs / "segmentation.csv").read_bytes()


def test_what_is_there_stays_and_another_measurement_is_one_more_record(theirs: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine" / "box", [of(latency_ms=9.0), of(batch=1, latency_ms=2.0)], [HERE])
    before = (mine / RECORDS).read_bytes()
    (done,) = into(tmp_path, theirs)
    assert (done.taken, done.there) == (2, 1)
    assert (mine / RECORDS).read_bytes().startswith(before)
    assert [record.values.get("latency_ms") for record in Store(mine).records()] == [9.0, 2.0, 5.0, None]
    assert len((mine / ENVIRONMENTS).read_text().splitlines()) == 1, "it was described already"


def test_rounds_in_company_are_no_series(theirs: Path, tmp_path: Path) -> None:
    samples = {"latency_ms": [1.0, 2.0], "latency_ms_round": [0, 1], "disturbed_round": [1.0], "company_round": [0.0]}
    write(theirs, [of(latency_ms=1.0, company="others", samples=samples)], [HERE])
    (done,) = into(tmp_path, theirs)
    assert (done.taken, done.refused) == (1, {})


def test_a_line_that_comes_twice_counts_once(theirs: Path, tmp_path: Path) -> None:
    text = (theirs / RECORDS).read_text()
    (theirs / RECORDS).write_text(text + text)
    (done,) = into(tmp_path, theirs)
    assert (done.taken, done.there) == (3, 3)


def test_a_broken_line_and_a_torn_one_cost_themselves_and_are_named(theirs: Path, tmp_path: Path) -> None:
    whole = lines(theirs)
    (theirs / RECORDS).write_text("\n".join([whole[0], "{nonsense", whole[1], "[1]", "[" * 100_000, whole[2][:50]]))
    (done,) = into(tmp_path, theirs)
    assert done.taken == 2
    found = {kind: examples[0].partition(" (")[0] for kind, examples in reasons(done).items()}
    assert found == {
        "records.jsonl: is no JSON": "line 2",
        "records.jsonl: is no JSON object": "line 4",
        "records.jsonl: is nested too deeply": "line 5",
        "records.jsonl: is cut off (a run ended while writing it)": "line 6",
    }
    assert Store(tmp_path / "mine" / "box").records(), "and ours is whole"


@pytest.mark.parametrize("change", ["extra", "line feed"])
def test_a_line_that_is_far_too_long_is_skipped(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("bench.store.merge.LINE", 1000)
    whole = lines(theirs)
    ending = "" if change == "extra" else "\n"
    (theirs / RECORDS).write_text(f"{whole[0]}\n{'x' * 2500}\n{whole[1]}\n{'x' * (1000 if ending else 2000)}{ending}")
    (done,) = into(tmp_path, theirs)
    assert done.taken == 2
    (examples,) = reasons(done).values()
    assert examples == ["line 2", "line 4"]


def edited(record: Record, **changes: Any) -> dict[str, Any]:
    """A record's document with other values at dotted places; what is None is taken out."""
    found = json.loads(record.line())
    for place, value in changes.items():
        *above, last = place.split("__")
        spot = found
        for name in above:
            spot = spot[name]
        if value is None:
            del spot[last]
        else:
            spot[last] = value
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "fine"}, "its status is none of ok, oom"),
        ({"version": "1"}, "a key is of another type"),
        ({"version": True}, "a key is of another type"),
        ({"measure": "a b"}, "its measure or version"),
        ({"measure": None}, "lacks a key"),
        ({"surplus": 1}, "has a key that is not known here"),
        ({"wall_s": -1.0}, "wall_s is no duration"),
        ({"wall_s": 10**400}, "a key is of another type"),
        ({"started": "yesterday"}, "started is no time"),
        ({"environment": "ffff"}, "no sound line of environments.jsonl describes its environment"),
        ({"reason": "x" * 20_001}, "reason has more than 20000 letters"),
        ({"reason": "\x1b[31mred"}, "reason has control characters"),
        ({"reason": "=HYPERLINK(0)"}, "reason begins as a formula does"),
        ({"inputs__recipe": 3}, "a key is of another type"),
        ({"inputs__recipe": "a\nb"}, "an input has control characters"),
        ({"fields__backbone": "<script>"}, "a field has markup"),
        ({"fields__backbone": "a|b"}, "a field has markup"),
        ({"fields__backbone": "a\ud800"}, "is no JSON"),
        ({"fields__backbone": "\u202ea"}, "a field has control characters"),
        ({"fields__backbone": 3}, "a field is of another type"),
        ({"fields__patch": 16.0}, "a field is of another type"),
        ({"fields__patch": 0}, "a field is out of range"),
        ({"fields__seed": 2**63}, "a field is out of range"),
        ({"fields__colour": "red"}, "has a field that no cell has"),
        ({"values__latency_ms": "5"}, "a column is no number"),
        ({"values__latency_ms": -5.0}, "a column is negative"),
        ({"values__latency_ms": True}, "a value is no finite number"),
        ({"values__latency_ms": 1e999}, "is no JSON"),
        ({"values__latency_ms": {"disc": "5"}}, "a value is no finite number"),
        ({"values__latency_ms": [5.0]}, "a value is no finite number"),
        ({"values__images": "../../secret"}, "a value is no digest"),
        ({"values__model": "../../secret"}, "a value is no digest"),
        ({"values__company": 3}, "a value is no text"),
        ({"samples__loss": [1.0, "2"]}, "a series is not of finite numbers"),
        ({"samples__loss": [1.0, True]}, "a series is not of finite numbers"),
        ({"samples__loss": 3.0}, "a series is not of finite numbers"),
        ({"samples__latency_ms": [1.0, 2.0], "samples__latency_ms_round": [0]}, "rounds are not those of a series"),
        ({"samples__latency_ms_round": [0]}, "rounds are not those of a series"),
        ({"samples__anchor_ms": [1.0]}, "rounds are not those of a series"),
        ({"samples__latency_ms": [0.0], "samples__latency_ms_round": [0]}, "a time is not above 0"),
    ],
)
def test_a_record_that_is_none_is_refused_and_costs_no_other(
    theirs: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    bad = edited(of(latency_ms=7.0, inputs={"recipe": "x"}, samples={"loss": [1.0]}), **changes)
    with (theirs / RECORDS).open("a") as file:
        file.write(json.dumps(bad) + "\n" + of(batch=4, latency_ms=3.0).line())
    (done,) = into(tmp_path, theirs)
    assert done.taken == 4
    ((kind, examples),) = reasons(done).items()
    assert kind.startswith(f"records.jsonl: {reason}")
    assert examples[0].startswith("line 4")
    assert all(text.isprintable() for text in words(done)), "what refuses it shows nothing of it that does harm"


def test_all_that_is_committed_is_sound() -> None:
    """What refuses somebody else's records must not refuse ours."""
    count = 0
    for name, check in ((RECORDS, checks.record), (ENVIRONMENTS, checks.environment)):
        for path in (catalogue.ROOT / "results").glob(f"*/{name}"):
            for line in path.read_bytes().splitlines():
                check(checks.document(line))
                count += 1
    assert count > 800


def test_an_environment_that_is_not_what_its_id_says_takes_its_records_along(theirs: Path, tmp_path: Path) -> None:
    (theirs / ENVIRONMENTS).write_text((theirs / ENVIRONMENTS).read_text().replace("Test CPU", "Faster CPU"))
    (done,) = into(tmp_path, theirs)
    assert done.taken == 0
    assert set(reasons(done)) == {
        "environments.jsonl: its id is not the digest of what it says",
        "records.jsonl: no sound line of environments.jsonl describes its environment",
    }
    assert not (tmp_path / "mine").exists(), "nothing to take, nothing made"


def test_markup_in_a_commit_is_refused(theirs: Path, tmp_path: Path) -> None:
    facts = json.loads((theirs / ENVIRONMENTS).read_text())
    (theirs / ENVIRONMENTS).write_text(json.dumps({**facts, "git": "[here](http://x)"}) + "\n")
    (done,) = into(tmp_path, theirs)
    assert "environments.jsonl: a text has markup" in reasons(done)


def test_what_is_not_known_here_is_taken_and_said_to_be_in_no_table(theirs: Path, tmp_path: Path) -> None:
    later = [of(version=7, latency_ms=1.0), replace(of("latency"), measure="glow", fields={"lamp": "x", "watts": 3})]
    later.append(of("complexity", head="of tomorrow", params_m=1.0))
    write(theirs, later, [HERE])
    (done,) = into(tmp_path, theirs)
    assert (done.taken, done.refused) == (3, {})
    assert set(done.unread) == {
        "of another version of latency than 1",
        "of a measure that is not here",
        "of a head that is not here",
    }
    assert report(tmp_path / "mine").ok


def overlaps() -> Overlaps:
    counts = {"all": np.array([[[3, 1, 0], [2, 0, 2]], [[4, 0, 1], [1, 1, 1]]])}
    return Overlaps(np.array([7, 8], np.uint64), ("disc", "ring"), None, counts)


def with_images(folder: Path, miou: float | None = None) -> str:
    """Write an accuracy with the file of its images into a folder."""
    digest = images.write(folder / images.FOLDER, overlaps().arrays())
    figure = overlaps().figure("miou")
    assert figure is not None
    write(folder, [of("accuracy", miou=float(figure[0]) if miou is None else miou, images=digest)], [HERE])
    return digest


def test_what_is_kept_of_images_comes_along_and_is_what_gives_the_figure(theirs: Path, tmp_path: Path) -> None:
    digest = with_images(theirs)
    (done,) = into(tmp_path, theirs)
    assert (done.taken, dict(done.files), done.imageless) == (1, {images.FOLDER: 1}, 0)
    kept = tmp_path / "mine" / "box" / images.FOLDER
    assert images.read(kept, digest) is not None
    assert [path.name for path in kept.iterdir()] == [f"{digest}.npz"]
    (kept / f"{digest}.npz").unlink()
    (again,) = into(tmp_path, theirs)
    assert (again.taken, again.there, dict(again.files)) == (0, 1, {images.FOLDER: 1}), "it is made whole again"


def test_a_figure_that_its_images_do_not_give_is_refused(theirs: Path, tmp_path: Path) -> None:
    with_images(theirs, miou=99.0)
    (done,) = into(tmp_path, theirs)
    assert (done.taken, list(reasons(done))) == (0, ["records.jsonl: its figures are not those of its images"])


@pytest.mark.parametrize("content", [None, b"", b"PK\x05\x06" + bytes(18), b"damaged"])
def test_a_damaged_or_missing_file_of_images_costs_itself(theirs: Path, tmp_path: Path, content: bytes | None) -> None:
    digest = with_images(theirs)
    path = theirs / images.FOLDER / f"{digest}.npz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (done,) = into(tmp_path, theirs)
    assert (done.taken, done.imageless, dict(done.files)) == (1, 1, {})
    assert [kind.partition(":")[0] for kind in reasons(done)] == ([] if content is None else ["images"])
    assert not (tmp_path / "mine" / "box" / images.FOLDER).exists()


@pytest.mark.parametrize("what", ["of other arrays", "pickled", "no archive", "too large"])
def test_a_file_whose_name_is_right_and_that_keeps_no_images_is_refused(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    arrays = {"pickled": {"score": np.array([{}], object)}, "of other arrays": {"x": np.zeros(3)}}.get(what)
    arrays = overlaps().arrays() if arrays is None else arrays
    if what == "too large":
        monkeypatch.setattr("bench.store.checks.UNPACKED", 700)
    digest = images.write(theirs / images.FOLDER, arrays)
    if what == "no archive":
        digest = images.digest_of(b"text")
        images.put(theirs / images.FOLDER, b"text", digest)
    write(theirs, [of("accuracy", miou=1.0, images=digest)], [HERE])
    (done,) = into(tmp_path, theirs)
    assert done.taken == 1
    assert [one.file for one in done.refused.values()] == [images.FOLDER]


def test_pictures_come_along_and_no_other_is_overwritten(theirs: Path, tmp_path: Path) -> None:
    folder, mine = theirs / "pictures", tmp_path / "mine" / "box" / "pictures"
    folder.mkdir()
    mine.mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    for name, content in (("a.png", PNG), ("b.png", PNG), ("c.png", b"GIF"), (".d.png", PNG), ("e\x1b.png", PNG)):
        (folder / name).write_bytes(content)
    (folder / "f.png").symlink_to(secret)
    (mine / "b.png").write_bytes(b"mine")
    (done,) = into(tmp_path, theirs)
    assert dict(done.files) == {"pictures": 1}
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == {"a.png": PNG, "b.png": b"mine"}
    assert sorted(reasons(done)) == [
        "pictures: is called otherwise than pictures are",
        "pictures: is no PNG",
        "pictures: is no plain file that can be read",
        "pictures: there is another of this name, which stays",
    ]
    (again,) = into(tmp_path, theirs)
    assert not again.files


def test_kept_models_come_when_they_are_asked_for(theirs: Path, tmp_path: Path) -> None:
    folder = theirs / models.FOLDER
    folder.mkdir()
    noted = models.noted(
        CELL, Recipe(steps=1, batch=1, lr=0.1), classes=["disc"], background=None, task="segmentation", version=""
    )
    save_file({"x": np.zeros(3)}, folder / "fresh", {models.METADATA: json.dumps(noted)})
    digest = models.sha256(folder / "fresh")[: models.DIGITS]
    (folder / "fresh").rename(folder / f"{digest}{models.ENDING}")
    (folder / f"{'0' * 16}{models.ENDING}").write_bytes(b"damaged")
    write(theirs, [of("accuracy", miou=1.0, model=digest), of("accuracy", seed=1, miou=1.0, model="0" * 16)], [HERE])
    assert not into(tmp_path, theirs)[0].files
    (done,) = into(tmp_path, theirs, kept=True)
    assert dict(done.files) == {models.FOLDER: 1}
    assert reasons(done) == {"models: it has other bytes than its name says": [f"{'0' * 16}{models.ENDING}"]}
    assert models.opened(digest, [tmp_path / "mine"]).classes == ("disc",)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_records_that_are_no_plain_file_are_not_read(theirs: Path, tmp_path: Path, kind: str) -> None:
    path = theirs / RECORDS
    text = path.read_text()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_text(text)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    (done,) = into(tmp_path, theirs)
    assert (done.taken, list(reasons(done))) == (0, ["records.jsonl: is no plain file that can be read"])


def test_nothing_is_written_beside_the_results_and_nothing_in_a_dry_run(theirs: Path, tmp_path: Path) -> None:
    with_images(theirs)
    there = sorted(tmp_path.rglob("*"))
    (dry,) = into(tmp_path, theirs, write=False)
    assert sorted(tmp_path.rglob("*")) == there
    (done,) = into(tmp_path, theirs)
    assert vars(done) == vars(dry), "and it said what would be"
    new = {path for path in tmp_path.rglob("*") if path not in there}
    assert new
    assert all(path == tmp_path / "mine" or path.is_relative_to(tmp_path / "mine") for path in new)


def test_a_folder_may_be_called_otherwise_by_a_plain_name_alone(theirs: Path, tmp_path: Path) -> None:
    into(tmp_path, theirs, machine="other-box")
    assert len(lines(tmp_path / "mine" / "other-box")) == 3
    for name in ("../outside", "", ".hidden", "a/b", "a b", "\x1b[31m", "-x", "x" * 101):
        with pytest.raises(UserError, match=r"--machine .* is no plain name; take letters"):
            into(tmp_path, theirs, machine=name)
    (tmp_path / "mine" / "my GPU").mkdir()
    into(tmp_path, theirs, machine="my GPU")
    assert len(lines(tmp_path / "mine" / "my GPU")) == 3, "one that is there may have any name"
    write(theirs.parent / "a b\x1b", [of(latency_ms=1.0)], [HERE])
    with pytest.raises(UserError, match="--machine names one folder, and 2 came"):
        into(tmp_path, theirs.parent, machine="box")
    strange, box = into(tmp_path, theirs.parent)
    assert list(reasons(strange).values()) == [[r"'a b\x1b'"]]
    assert box.taken == 3
    with pytest.raises(UserError, match=r"has a plain name, .* came; name it with --machine"):
        into(tmp_path, theirs.parent / "a b\x1b")


def test_ones_own_folder_and_no_folder_are_mistakes(theirs: Path, tmp_path: Path) -> None:
    into(tmp_path, theirs)
    for own in ("mine", "mine/box"):
        with pytest.raises(UserError, match="to which it would be added"):
            into(tmp_path, tmp_path / own)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="to which it would be added"):
        into(tmp_path, tmp_path / "link")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere to merge"):
        into(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no records: there is neither .*records\.jsonl nor"):
        into(tmp_path, tmp_path)


def test_a_store_that_a_run_writes_to_is_left_alone_and_damaged_lines_stay(theirs: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine" / "box", [of(latency_ms=9.0)], [HERE])
    with Store(mine).writing(), pytest.raises(UserError, match=r"another run .* is writing to"):
        into(tmp_path, theirs)
    (mine / RECORDS).write_text("{nonsense\n")
    into(tmp_path, theirs)
    lines = (mine / RECORDS).read_text().splitlines()
    assert lines[0] == "{nonsense"
    assert len(Store(mine).records()) == len(lines) - 1 > 0


def test_a_copy_gives_back_the_description_of_an_environment_that_was_lost(theirs: Path, tmp_path: Path) -> None:
    into(tmp_path, theirs)
    mine = tmp_path / "mine" / "box"
    known = Store(mine).environments()
    assert known
    (mine / ENVIRONMENTS).unlink()
    (again,) = into(tmp_path, theirs)
    assert again.taken == 0
    assert again.environments == len(known)
    assert Store(mine).environments() == known


def test_many_records_are_written_and_many_refusals_are_few_lines(theirs: Path, tmp_path: Path) -> None:
    many = [of(seed=seed, latency_ms=1.0, batch=seed + 1) for seed in range(1100)]
    text = "".join(record.line() for record in many)
    (theirs / RECORDS).write_text(text + text.replace('"ok"', '"fine"'))
    (done,) = into(tmp_path, theirs)
    assert (done.taken, len(lines(tmp_path / "mine" / "box"))) == (1100, 1100)
    (refusal,) = done.refused.values()
    assert (refusal.count, refusal.examples[0], len(refusal.examples)) == (1100, "line 1101 (fine)", 5)
    assert words(done)[-1].endswith("line 1105 (fine); and 1095 more")


def test_the_verb_says_what_became_of_it(theirs: Path, tmp_path: Path) -> None:
    mine = str(tmp_path / "mine")
    call = CliRunner().invoke
    done = call(cli.app, ["merge", str(theirs), "--results", mine, "--dry-run"])
    assert (done.exit_code, (tmp_path / "mine").exists()) == (0, False)
    assert "3 records taken; with 1 environment\nnothing was written (--dry-run)" in done.output
    with (theirs / RECORDS).open("a") as file:
        file.write("{}\n")
    done = call(cli.app, ["merge", str(theirs), "--results", mine])
    assert done.exit_code == 1
    assert "3 records taken, 1 refused; with 1 environment" in done.output
    assert "refused: 1 of records.jsonl: lacks a key: line 4 (environment)" in done.output
    assert f"tables are made by `densebench report --results {mine}`" in done.output
    done = call(cli.app, ["merge", str(theirs), "--results", mine, "--json"])
    (found,) = json.loads(done.output)
    assert (found["taken"], found["there"], found["refused"][0]["count"]) == (0, 3, 1)
    done = call(cli.app, ["merge", mine, "--results", mine])
    assert isinstance(done.exception, UserError), "which `main` turns into exit code 2"


def test_a_line_of_ones_own_that_a_run_left_torn_is_moved_aside_and_said(theirs: Path, tmp_path: Path) -> None:
    """A crash cut the last line off: what joins begins a line of its own."""
    own = write(tmp_path / "mine" / "box", [of(batch=4, latency_ms=9.0)], [HERE])
    with (own / RECORDS).open("ab") as file:
        file.write(b'{"measure":"latency","vers')
    before = lines(own)
    (merged,) = into(tmp_path, theirs)
    assert merged.taken == 3
    assert lines(own)[:1] == before[:1]
    assert len([json.loads(line) for line in lines(own)]) == 4
    assert (own / RECORDS).with_suffix(".torn").read_bytes() == b'{"measure":"latency","vers\n'
    assert any("cut off by an earlier run" in sentence for sentence in merged.mended)
