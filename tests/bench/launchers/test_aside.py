"""A process that answers: whatever happens to it is an answer."""

import os
from contextlib import closing

import pytest

from bench.launchers import _aside
from bench.launchers._aside import Aside, Unanswered
from tests.bench.answering import respond


@pytest.fixture
def aside():
    with closing(Aside(respond, 60)) as aside:
        yield aside


def test_it_answers_from_a_process_of_its_own_and_is_quiet(aside, capfd):
    assert aside.ask("noise", "a", "b") == ("a", "b")
    pid = aside.ask("pid")
    assert pid != os.getpid()
    aside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_an_answer_in_a_line_and_the_process_goes_on(aside):
    pid = aside.ask("pid")
    with pytest.raises(Unanswered, match=r"^RuntimeError: backend='inductor' raised: no compiler$") as error:
        aside.ask("raise")
    assert error.value.question == ("raise",)
    with pytest.raises(Unanswered, match=r"^ValueError$"):
        aside.ask("bare")
    aside._known.clear()
    assert aside.ask("pid") == pid


def test_after_a_death_another_process_answers_and_nobody_dies_twice(aside):
    pid = aside.ask("pid")
    with pytest.raises(Unanswered, match="died of SIGSEGV"):
        aside.ask("crash")
    with pytest.raises(Unanswered, match="ended with exit code 3"):
        aside.ask("leave")
    second = aside.ask("noise")
    assert second == ()
    with pytest.raises(Unanswered, match="SIGSEGV"):
        aside.ask("crash")
    aside._known.clear()
    assert aside.ask("pid") not in {pid, os.getpid()}


def test_who_hangs_is_given_up(aside, monkeypatch):
    monkeypatch.setattr(_aside, "ENDS_S", 0.1)
    pid = aside.ask("pid")
    aside.patience_s = 0.2
    with pytest.raises(Unanswered, match=r"no answer within 0\.2 s"):
        aside.ask("hang")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_ending_what_never_began_is_nothing():
    Aside(respond, 1).close()
