"""What files state is kept from one start to the next, and an edit, a torn cache or none at all never shows."""

import json
import math
import os
import subprocess
import sys

import pytest

from bench import cache, catalogue
from bench.cache import Stated

EDITED = ["content", "content, and its date set back", "only the date"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and a clock on which every file is old enough to be kept."""
    path = tmp_path / "cache"
    monkeypatch.setenv("DENSEBENCH_CACHE", str(path))
    monkeypatch.setattr(cache, "_TICK_NS", 0)
    return path


@pytest.fixture
def plug(tmp_path):
    path = tmp_path / "plug.py"
    path.write_text("CATALOGUE = {'a': {}}\n")
    return path


def ask(plug):
    """What the file states, and how often it was parsed for it."""
    parsed = []

    def parse():
        parsed.append(plug.read_text())
        return parsed[-1]

    stated = Stated()
    value = stated.of(plug, parse)
    stated.keep()
    return value, len(parsed)


def change(plug, how):
    before = plug.stat()
    while plug.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of files ticks slowly
        if how != EDITED[2]:
            plug.write_text("CATALOGUE = {'b': {}}\n")
        date = before.st_mtime_ns - (0 if how == EDITED[1] else 10**9)
        os.utime(plug, ns=(date, date))
    assert plug.stat().st_size == before.st_size


def test_a_file_is_parsed_once(folder, plug):
    assert ask(plug) == (plug.read_text(), 1)
    assert ask(plug) == (plug.read_text(), 0)
    assert [path.name for path in folder.iterdir()] == ["stated.json"], "nothing half written is left"


@pytest.mark.parametrize("how", EDITED)
def test_an_edited_file_is_parsed_again(folder, plug, how):
    ask(plug)
    change(plug, how)
    assert ask(plug) == (plug.read_text(), 1)
    assert ask(plug) == (plug.read_text(), 0)


def test_a_file_of_this_moment_is_not_kept(folder, plug, monkeypatch):
    """A second edit in the same tick of the clock would leave the same dates."""
    monkeypatch.setattr(cache, "_TICK_NS", 10**15)
    assert ask(plug)[1] == 1
    assert ask(plug)[1] == 1


def spoil(text, how):
    return {
        "cut": text[: len(text) // 2],
        "without its end": text[:-1],
        "empty": b"",
        "a letter": text.replace(b"CATALOGUE", b"CATALOGUF"),
        "zeros": bytes(len(text)),
        "another form": text.replace(b" 1 ", b" 0 ", 1),
        "no cache": b"\xff" + text,
    }[how]


@pytest.mark.parametrize("how", ["cut", "without its end", "empty", "a letter", "zeros", "another form", "no cache"])
def test_a_torn_cache_is_as_good_as_none(folder, plug, how):
    ask(plug)
    kept = folder / "stated.json"
    text = kept.read_bytes()
    kept.write_bytes(spoil(text, how))
    assert kept.read_bytes() != text
    assert ask(plug) == (plug.read_text(), 1)
    assert kept.read_bytes() == text, "and is mended"


@pytest.mark.parametrize("place", ["a file", "in a file", "in /proc", "a folder in its place"])
def test_a_cache_that_cannot_be_written_to_stops_nothing(folder, plug, monkeypatch, place):
    path = {"a file": plug, "in a file": plug / "cache", "in /proc": "/proc/cache"}.get(place, folder)
    if path == folder:
        (folder / "stated.json").mkdir(parents=True)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(path))
    for _ in range(2):
        assert ask(plug) == (plug.read_text(), 1)
    assert not folder.exists() or [one.name for one in folder.iterdir()] == ["stated.json"]


def test_nobodys_home_stops_nothing(plug, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DENSEBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", nowhere)
    monkeypatch.setattr(cache, "_TICK_NS", 0)
    assert ask(plug) == (plug.read_text(), 1)


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"x": b"y"}, {1, 2}, math.nan, [[("a",)]]], ids=repr)
def test_what_json_would_change_is_parsed_each_time(folder, plug, value):
    for _ in range(2):
        stated = Stated()
        assert stated.of(plug, lambda: value) is value
        stated.keep()


def test_a_file_that_is_gone_drops_out(folder, plug):
    ask(plug)
    other = plug.with_name("other.py")
    plug.rename(other)
    ask(other)
    files = json.loads((folder / "stated.json").read_bytes().partition(b"\n")[2])
    assert list(files) == [str(other)]


def test_a_mistake_is_said_at_each_start(folder, plug):
    plug.write_text("CATALOGUE = dict()\n")
    for _ in range(2):
        with pytest.raises(catalogue.UserError, match="must be a literal"):
            Stated().of(plug, lambda: catalogue.read("plug", plug))


def everything():
    catalogue._read_all.cache_clear()
    return {kind: catalogue._read_all(kind) for kind in catalogue._FOLDERS}


def test_the_whole_catalogue_comes_out_of_the_cache_as_it_is_parsed(folder, monkeypatch):
    def parsed(path):
        raise AssertionError(f"{path} is parsed though it is kept")

    try:
        first = everything()
        monkeypatch.setattr(catalogue, "_stated", parsed)
        assert everything() == first
    finally:
        catalogue._read_all.cache_clear()


def test_a_plug_in_that_is_edited_is_seen_by_the_next_start(folder, plug, monkeypatch):
    monkeypatch.setattr(catalogue, "_FOLDERS", {"launchers": ("some", plug.parent)})
    try:
        assert list(everything()["launchers"][0]) == ["a"]
        change(plug, EDITED[1])
        assert list(everything()["launchers"][0]) == ["b"]
    finally:
        catalogue._read_all.cache_clear()


def test_starts_at_the_same_time_leave_a_whole_cache(folder, plug):
    code = "from bench import cache, catalogue; cache._TICK_NS = 0; catalogue.entries('heads')"
    starts = [subprocess.Popen([sys.executable, "-c", code], cwd=catalogue.ROOT) for _ in range(4)]
    assert [start.wait() for start in starts] == [0] * 4
    assert [path.name for path in folder.iterdir()] == ["stated.json"]
    for path in (catalogue.ROOT / "heads").glob("[!_]*.py"):
        assert Stated().of(path, lambda: None) is not None
