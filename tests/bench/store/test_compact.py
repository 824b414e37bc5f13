"""What compaction drops, what it keeps, and that no table can tell the difference."""

import gzip
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.plan.measure import COMPANY
from bench.report.rows import read
from bench.report.tables import as_csv
from bench.store import compact as compacting
from bench.store import lock
from bench.store.compact import DROPPED, OLDER, SUPERSEDED, compact, words
from bench.store.record import Record
from bench.store.store import Store
from tests.bench.records import environment, make, matrix, write

pytestmark = pytest.mark.usefixtures("known")


def dropped(folder: Path) -> list[str]:
    with gzip.open(folder / DROPPED, "rt") as file:
        return file.read().splitlines(keepends=True)


def again(record: Record, hour: int, **given: object) -> Record:
    return replace(record, started=f"2026-01-01T{hour:02}:00:00+00:00", **given)


def test_tables_are_those_of_before(tmp_path: Path) -> None:
    first = [again(record, 1) for record in matrix(2, seeds=2)]
    better = [again(record, 3, values={**record.values, "latency_ms": 4.0}) for record in first[1::16]]
    failed = [again(record, 4, status="error", values={}, reason="x") for record in first[5::16]]
    crowded = [again(record, 5, values={**record.values, COMPANY: "others"}) for record in first[2::16]]
    older = [replace(record, version=0) for record in first[:5]]
    records = [*older, *first, *failed, *crowded, *better]
    folder = write(tmp_path / "box", records)
    before = as_csv(read(folder).tables)
    done = compact(folder)
    assert as_csv(read(folder).tables) == before
    assert done.dropped == {OLDER: 5, SUPERSEDED: len(better) + len(failed) + len(crowded)}
    assert not read(folder).left_out
    kept = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    assert len(kept) == done.kept
    assert sorted([*kept, *dropped(folder)]) == sorted(record.line() for record in records), "each line is somewhere"
    assert compact(folder).dropped == {}, "once is enough"
    assert len(dropped(folder)) == len(records) - len(kept)


def test_of_two_states_of_a_recipe_the_one_that_was_named_last_still_counts(tmp_path: Path) -> None:
    def trained(digest: str, hour: int, **given: object) -> Record:
        return again(make("accuracy", miou=40.0 + hour, recipe="mine", inputs={"recipe": digest}), hour, **given)

    records = [trained("a", 1), trained("b", 2), trained("a", 3, status="error", reason="lost", values={})]
    folder = write(tmp_path / "box", records)
    before = as_csv(read(folder).tables)
    assert "41.0" in before
    compact(folder)
    assert as_csv(read(folder).tables) == before
    assert [record.inputs["recipe"] for record in Store(folder).records()] == ["b", "a"]


def test_what_is_not_known_here_stays(tmp_path: Path) -> None:
    elsewhere = environment("there")
    records = [
        make("of_a_plug_in"),
        make("of_a_plug_in"),
        make("latency", latency_ms=1.0, version=2),
        make("latency", latency_ms=1.0, version=2),
        make("latency", latency_ms=2.0),
        make("latency", latency_ms=2.0, environment="there"),
        make("latency", latency_ms=2.0, environment="nowhere"),
    ]
    folder = write(tmp_path / "box", records, [environment("here"), elsewhere])
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"measure": 1}\n')
    text = (folder / "records.jsonl").read_text()
    done = compact(folder)
    assert (done.kept, done.dropped) == (8, {})
    assert (folder / "records.jsonl").read_text() == text
    assert words(done, written=True) == [f"{folder / 'records.jsonl'}: 8 records, all of which count"]


def test_limits_of_the_machine_are_the_best_of_all_measurements_and_all_stay(tmp_path: Path) -> None:
    limits = [make("latency", latency_ms=ms) for ms in (1.0, 2.0)]
    limits = [replace(one, fields={k: v for k, v in one.fields.items() if k != "backbone"}) for one in limits]
    folder = write(tmp_path / "box", limits)
    assert compact(folder).kept == 2


def test_a_dry_run_writes_nothing_and_says_the_same(tmp_path: Path) -> None:
    record = make("latency", latency_ms=1.0)
    folder = write(tmp_path / "box", [again(record, 1), again(record, 2)])
    files = {path: path.read_bytes() for path in folder.iterdir()}
    told = compact(folder, write=False)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    done = compact(folder)
    assert (told.kept, told.dropped, told.before, told.after) == (done.kept, done.dropped, done.before, done.after)
    assert done.after == (folder / "records.jsonl").stat().st_size < done.before
    assert words(done, written=True)[1] == f"1 record {SUPERSEDED}: moved to {DROPPED}"


@pytest.mark.parametrize("blocks", [0, 2, 3], ids=["the archive", "its end", "the records"])
def test_a_full_disk_leaves_the_records_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """It takes so many lines, of which three go to the archive."""
    record = make("latency", latency_ms=1.0)
    folder = write(tmp_path / "box", [again(record, hour) for hour in range(4)])
    text = (folder / "records.jsonl").read_bytes()
    copied, room = compacting._copied, list(range(blocks))

    def full(source: int, places: list[tuple[int, int]]) -> Iterator[bytes]:
        for block in copied(source, places):
            if not room:
                raise OSError(28, "No space left on device")
            room.pop()
            yield block

    monkeypatch.setattr(compacting, "_BLOCK", 1)
    with monkeypatch.context() as patch:
        patch.setattr(compacting, "_copied", full)
        with pytest.raises(UserError, match=r"No space left on device.*; the records are as they were"):
            compact(folder)
    assert (folder / "records.jsonl").read_bytes() == text
    assert not list(folder.glob(".*.part"))
    compact(folder)
    assert [one.started[11:13] for one in Store(folder).records()] == ["03"]
    found = [line for line in dropped(folder) if line]
    assert set(found) == {again(record, hour).line() for hour in range(3)}
    assert len(found) == (6 if blocks == 3 else 3), "what was set aside before stays there"


def test_lines_longer_than_a_block_and_far_apart_are_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_BLOCK", 64)
    records = [again(record, hour) for hour in (1, 2) for record in matrix(1)]
    folder = write(tmp_path / "box", [*records, *records[3:9]])
    before = as_csv(read(folder).tables)
    compact(folder)
    assert as_csv(read(folder).tables) == before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there are no threads that it needs
def test_killed_in_the_middle_of_the_archive_it_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set aside before and what comes after can both be unpacked."""
    record = make("latency", latency_ms=1.0)
    folder = write(tmp_path / "box", [again(record, hour) for hour in range(2)])
    compact(folder)
    with (folder / "records.jsonl").open("a") as file:
        file.writelines(again(record, hour).line() for hour in range(2, 5))

    def killed(_: int, __: object) -> Iterator[bytes]:
        yield os.urandom(2**20)  # enough for a part of it to be written
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=lambda: _as(monkeypatch, killed, folder))
    process.start()
    process.join()
    assert process.exitcode == 9
    compact(folder)
    assert [one.started[11:13] for one in Store(folder).records()] == ["04"]
    assert [line[line.index("T") + 1 :][:2] for line in dropped(folder)] == ["00", "01", "02", "03"]


def _as(monkeypatch: pytest.MonkeyPatch, copied: Callable[..., Iterator[bytes]], folder: Path) -> None:
    monkeypatch.setattr(compacting, "_copied", copied)
    compact(folder)


def test_a_folder_that_another_run_has_taken_meanwhile_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks it is found out within a beat, and what that run has written is not lost."""
    record = make("latency", latency_ms=1.0)
    folder = write(tmp_path / "box", [again(record, hour) for hour in range(2)])
    path = folder / "records.jsonl"
    set_aside = compacting._set_aside
    monkeypatch.setattr(lock, "BEAT_S", 0.02)

    def meanwhile(*arguments: Any) -> None:
        set_aside(*arguments)
        (folder / lock.NAME).write_text(json.dumps({"life": "another", "host": "b", "pid": 1, "since": "now"}))
        with path.open("a") as file:
            file.write(again(record, 2).line())
        until = time.monotonic() + 30
        while time.monotonic() < until and not [one for one in locks if one._lost]:
            time.sleep(0.02)

    locks: list[lock.Lock] = []
    take = lock.Lock._take
    monkeypatch.setattr(lock.Lock, "_take", lambda self: (locks.append(self), take(self))[1])
    monkeypatch.setattr(compacting, "_set_aside", meanwhile)
    with pytest.raises(UserError, match="neither can lock the other"):
        compact(folder)
    assert [one.started[11:13] for one in Store(folder).records()] == ["00", "01", "02"]
    assert not list(folder.glob(".*.part"))


def test_who_may_write_to_the_records_still_may(tmp_path: Path) -> None:
    folder = write(tmp_path / "box", [again(make("latency", latency_ms=1.0), hour) for hour in range(2)])
    (folder / "records.jsonl").chmod(0o660)
    compact(folder)
    assert (folder / "records.jsonl").stat().st_mode & 0o777 == 0o660
