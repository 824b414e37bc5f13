"""Exported models on the disk: whole or made again, and no more of them than they may take."""

import json
import os
import time

import pytest

from bench.errors import UserError
from bench.store import artifacts
from bench.store.artifacts import DAYS, FOLDER, RECENT_S, VARIABLE, WHOLE, earlier, find, prune, write


@pytest.fixture
def made(tmp_path):
    def make(name, size=1000, age_s=0.0, **said):
        folder = tmp_path / FOLDER / name
        write(
            folder,
            lambda into: (into / "model").write_bytes(b"x" * size),
            **{"question": name, "made_by": "a 1"} | said,
        )
        then = time.time() - age_s
        os.utime(folder, (then, then))
        return folder

    return make


def test_what_is_whole_is_found_and_its_use_is_noted(made):
    folder = made("one", age_s=9 * RECENT_S)
    kept, wrong = find(folder)
    assert wrong == ""
    assert kept.mib == 1000 / 2**20
    assert (kept.question, kept.made_by) == ("one", "a 1")
    assert time.time() - folder.stat().st_mtime < RECENT_S
    (folder / "more").write_text("x")
    assert find(folder) == (None, "more is not one of its files")
    (folder / "more").unlink()
    (folder / "model").unlink()
    assert find(folder) == (None, "model is missing")
    assert find(folder.with_name("none")) == (None, "")


def shorter(folder):
    (folder / "model").write_bytes(b"x" * 991)


def of_equal_size(folder):
    (folder / "model").write_bytes(b"x" * 999 + b"y")


def torn(folder):
    (folder / WHOLE).write_text('{"form": 1, "fil')


def no_object(folder):
    (folder / WHOLE).write_text("[]")


def of_a_newer_densebench(folder):
    path = folder / WHOLE
    path.write_text(json.dumps({**json.loads(path.read_text()), "form": 99}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shorter, "model has 991 bytes and was written with 1000"),
        (of_equal_size, "model has other bytes than when it was written"),
        (torn, "its whole.json is missing or torn"),
        (no_object, "its whole.json is missing or torn"),
        (of_a_newer_densebench, "it is of another version of densebench"),
    ],
)
def test_what_was_changed_is_of_no_use_and_made_again(made, harm, words):
    folder = made("one")
    harm(folder)
    kept, wrong = find(folder)
    assert kept is None
    assert words in wrong
    assert find(made("one"))[1] == ""


def test_what_fails_leaves_nothing_behind(tmp_path):
    def fails(into):
        (into / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write(tmp_path / FOLDER / "one", fails, question="", made_by="")
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_an_export_of_no_files_is_none(tmp_path):
    with pytest.raises(OSError, match="no files"):
        write(tmp_path / FOLDER / "one", lambda _: None, question="", made_by="")


def test_another_version_of_the_same_is_known(made, tmp_path):
    made("one", question="q", made_by="a 1")
    folder = tmp_path / FOLDER / "two"
    assert earlier(folder, "q", "a 2") == "a 1"
    assert earlier(folder, "q", "a 1") == ""
    assert earlier(folder, "other", "a 2") == ""


def test_what_nobody_has_used_for_long_goes(made, tmp_path):
    old, young = made("old", age_s=24 * 3600 * (DAYS + 1)), made("young", age_s=24 * 3600 * (DAYS - 1))
    dead = tmp_path / FOLDER / ".an-export-that-died"
    dead.mkdir()
    os.utime(dead, (time.time() - 2 * 24 * 3600,) * 2)
    busy = tmp_path / FOLDER / ".an-export"
    busy.mkdir()
    prune(tmp_path)
    assert [one.exists() for one in (old, young, dead, busy)] == [False, True, False, True]


def test_what_was_used_longest_ago_makes_room(made, tmp_path, monkeypatch):
    first, second, third = (made(name, 10_000, age) for name, age in (("a", 9e4), ("b", 8e4), ("c", 7e4)))
    monkeypatch.setenv(VARIABLE, str(25_000 / 2**30))
    prune(tmp_path)
    assert [one.exists() for one in (first, second, third)] == [False, True, True]
    monkeypatch.setenv(VARIABLE, "0")
    os.utime(third)
    prune(tmp_path)
    assert [one.exists() for one in (second, third)] == [False, True], "what was used just now stays"
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(UserError, match="GiB that exported models may take"):
        artifacts.prune(tmp_path)


def test_what_another_process_has_exported_meanwhile_is_not_taken_from_under_it(made, tmp_path):
    """It may be loading it: the cards of a machine export one model at once."""
    folder = tmp_path / FOLDER / "one"

    def later(into):
        (into / "model").write_text("second")
        made("one", size=5)

    kept = write(folder, later, question="one", made_by="a 1")
    assert (folder / "model").read_text() == "xxxxx"
    assert kept.files["model"][0] == 5
