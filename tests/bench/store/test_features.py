"""Rows on the disk: found again by all that decides them, shared by processes, within a bound."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from bench.store import features
from bench.store.features import FeatureStore, bound

KEY = {"backbone": "a", "level": 0}
SHAPE = (3, 4)


def opened(folder, key=KEY, *, limit=1 << 20, count=5, expected=None):
    return FeatureStore(folder, limit).open(key, count, SHAPE, "float32", expected=expected)


def row(value):
    return np.full(SHAPE, value, np.float32)


def test_rows_are_found_again_by_the_same_key_alone(tmp_path):
    rows = opened(tmp_path)
    rows.put(2, row(7))
    rows.close()
    again = opened(tmp_path)
    assert [again.has(index) for index in range(5)] == [False, False, True, False, False]
    assert (again.get(2) == 7).all()
    other = opened(tmp_path, {**KEY, "level": 1})
    assert not other.has(2)


def test_two_processes_fill_a_key_together(tmp_path):
    rows = opened(tmp_path)
    rows.put(0, row(1))
    code = (
        "import pathlib, numpy as np\nfrom bench.store.features import FeatureStore\n"
        f"rows = FeatureStore(pathlib.Path({str(tmp_path)!r}), 1 << 20).open({KEY!r}, 5, {SHAPE!r}, 'float32')\n"
        "rows.put(1, np.ones((3, 4), np.float32))\n"
        "print(rows.first, rows.has(0), float(rows.get(0).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.split() == ["False", "True", "12.0"]
    assert rows.first
    assert (rows.get(1) == 1).all()


@pytest.mark.parametrize("name", ["rows.bin", "done.bin", "index.json"])
def test_a_file_that_was_cut_off_is_begun_anew(tmp_path, name):
    rows = opened(tmp_path)
    rows.put(0, row(1))
    rows.close()
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    again = opened(tmp_path)
    assert not again.has(0)
    again.put(0, row(3))
    assert (again.get(0) == 3).all()


def test_what_was_used_longest_ago_makes_room_and_what_is_in_use_does_not(tmp_path):
    size = 1000 * 12 * 4
    limit = int(2.5 * size)
    kept = {}
    for number in range(3):
        rows = opened(tmp_path, {"n": number}, limit=limit, count=1000)
        for index in range(1000):
            rows.put(index, row(number))
        if number == 0:
            kept[0] = rows  # stays open
        else:
            rows.close()
        (index,) = [path for path in tmp_path.glob("*/index.json") if f'"n": {number}' in path.read_text()]
        os.utime(index, (number, number))
    left = sorted(int(path.read_text().partition('"n": ')[2][0]) for path in tmp_path.glob("*/index.json"))
    assert left == [0, 2], "1 was used longest ago among those that nobody uses"
    assert kept[0].has(0)


def test_what_is_larger_than_the_bound_is_not_kept_but_holes_take_no_room(tmp_path):
    assert opened(tmp_path, limit=10) is None
    assert opened(tmp_path, count=1000, limit=1000, expected=2) is not None


def test_a_full_disk_stops_the_writing_and_nothing_else(tmp_path, monkeypatch):
    rows = opened(tmp_path)
    rows.put(0, row(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "pwrite", full)
    rows.put(1, row(2))
    monkeypatch.undo()
    assert rows.full
    assert not rows.has(1)
    assert (rows.get(0) == 1).all()


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert opened(blocked) is None


def test_the_bound_is_a_number_of_gib(monkeypatch):
    monkeypatch.setenv(features.VARIABLE, "0.5")
    assert bound() == 1 << 29
    monkeypatch.setenv(features.VARIABLE, "much")
    with pytest.raises(UserError, match="0 or more; 'much' came"):
        bound()
