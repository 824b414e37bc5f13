"""One writer a folder, on whichever machine: real processes, with locks that hold, that hold on one machine, or not."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from bench import errors
from bench.errors import UserError
from bench.store import lock
from bench.store.lock import NAME, Lock
from bench.store.record import Record
from bench.store.store import Store

BEAT_S, WATCH_S = 0.05, 1.0


def record(reason):
    return Record("latency", 1, {}, {}, "here", "error", reason)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lock, "WATCH_S", WATCH_S)
    monkeypatch.setattr(lock, "_LOOK_S", 0.02)


def elsewhere(monkeypatch):
    """This process is on another machine than the others, and flock knows this machine alone."""
    monkeypatch.setattr(lock, "boot", lambda: "another kernel")
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)


@pytest.fixture
def writer(tmp_path):
    """A process that writes to a folder until it is killed."""
    script = f"""
        import time
        from pathlib import Path
        from bench.store import lock
        from bench.store.store import Store
        lock.BEAT_S = {BEAT_S}
        with Store(Path({str(tmp_path)!r})).writing():
            print("writing", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_and_named(tmp_path, writer):
    with pytest.raises(UserError, match=rf"process {writer.pid}, since .* is writing to"), Store(tmp_path).writing():
        pass


def test_a_machine_whose_locks_we_do_not_see_is_refused_as_long_as_it_lives(tmp_path, writer, monkeypatch):
    elsewhere(monkeypatch)
    with pytest.raises(UserError, match=rf"process {writer.pid}, since .* is writing to"), Store(tmp_path).writing():
        pass
    assert json.loads((tmp_path / NAME).read_text())["pid"] == writer.pid, "it is still the other's"


def test_a_machine_that_was_lost_frees_its_folder(tmp_path, writer, monkeypatch, capsys):
    writer.kill()
    writer.wait()
    elsewhere(monkeypatch)
    errors.forget_remarks()
    began = time.monotonic()
    with Store(tmp_path).writing():
        assert time.monotonic() - began >= WATCH_S
    assert f"process {writer.pid}" in capsys.readouterr().err
    with Store(tmp_path).writing():
        assert time.monotonic() - began < 2 * WATCH_S, "who ended in order keeps nobody waiting"


def test_a_process_of_this_machine_that_was_killed_keeps_nobody_waiting(tmp_path, writer, monkeypatch):
    writer.kill()
    writer.wait()
    monkeypatch.setattr(
        Lock, "_watch", lambda self, found: pytest.fail("nothing to wait for: flock ends with a process")
    )
    with Store(tmp_path).writing():
        pass


def test_of_two_that_begin_in_one_moment_without_locks_one_ends(tmp_path, monkeypatch):
    with Store(tmp_path).writing() as first:
        first.record(record("a"))
        monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
        monkeypatch.setattr(Lock, "_watch", lambda self, found: None)  # as if it had found nobody
        monkeypatch.setattr(lock, "boot", lambda: "another kernel")
        with Store(tmp_path).writing() as second:
            until = time.monotonic() + 30
            while not first._lock._lost and time.monotonic() < until:
                time.sleep(BEAT_S)
            with pytest.raises(UserError, match="neither can lock the other out"):
                first.record(record("b"))
            second.record(record("c"))
    assert [one.reason for one in Store(tmp_path).records()] == ["a", "c"]


def test_without_any_locks_runs_watch_each_other(tmp_path, writer, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    errors.forget_remarks()
    with pytest.raises(UserError, match=f"process {writer.pid}"), Store(tmp_path).writing():
        pass
    assert "a file system without locks (No locks available)" in capsys.readouterr().err
    writer.kill()
    writer.wait()
    with Store(tmp_path).writing() as ours:
        ours.environment({"id": "x"})


def test_a_sign_of_life_that_comes_late_is_written_to_no_other_file(tmp_path, monkeypatch):
    """A server that is away holds the thread back until the folder was given up, and its number is another file's."""
    held, away = threading.Event(), threading.Event()
    written = Lock._write

    def late(self, beat):
        if beat:
            away.set()
            held.wait(30)
        written(self, beat)

    monkeypatch.setattr(Lock, "_write", late)
    ours = Lock(tmp_path)
    assert away.wait(30)
    ours.close()
    others = [(tmp_path / f"{index}").open("w+b") for index in range(3)]
    held.set()
    ours._thread.join(30)
    assert [one.read() for one in others] == [b"", b"", b""]
    for one in others:
        one.close()
    with Store(tmp_path).writing():
        """Whoever comes next has it at once."""
