"""How a command is ended from outside."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bench import catalogue, signals

_SLOW = """
import signal, sys, time
from bench import signals
{before}
signals.listen()
try:
    print("listening", flush=True)
    time.sleep(30)
except signals.Ended as ended:
    print(ended, flush=True)
    time.sleep({tidying})
    print("tidied", flush=True)
    sys.exit(signals.code(ended.number))
"""


_USUAL = """\
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""


@pytest.fixture
def start():
    """Starts what takes a while to tidy up, and hears signals though these tests may run where they are ignored."""
    started = []

    def go(tidying, before=_USUAL):
        env = {**os.environ, "PYTHONPATH": str(catalogue.ROOT)}
        code = _SLOW.format(tidying=tidying, before=before)
        started.append(subprocess.Popen([sys.executable, "-c", code], env=env, text=True, stdout=-1, stderr=-1))
        assert started[-1].stdout.readline() == "listening\n"
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_a_signal_is_said_and_is_the_exit_code(start, number, code, says):
    process = start(0)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (code, "")
    assert says in output
    assert "tidied" in output


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(start, first):
    process = start(30)
    process.send_signal(first)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "", "")


def test_a_session_that_ends_sends_several_of_which_one_counts(start):
    process = start(0.5)
    process.send_signal(signal.SIGTERM)
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "tidied\n"
    assert process.returncode == 143


def test_what_was_ignored_from_the_start_still_is(start):
    """As by ``nohup``."""
    process = start(0, before="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in process.communicate(timeout=20)[0]


def test_later_on_a_scheduler_that_asks_again_means_it(monkeypatch):
    ended = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    monkeypatch.setattr(signals.os, "isatty", lambda stream: False)
    ears = signals.Ears()
    with pytest.raises(signals.Ended):
        ears(signal.SIGTERM, None)
    ears(signal.SIGTERM, None)
    assert ended == []
    monkeypatch.setattr(signals, "SAME_S", 0.0)
    ears(signal.SIGTERM, None)
    assert ended == [143]
