"""Two processes say what one says, whatever becomes of the second."""

import os
import signal

import pytest

from bench.errors import UserError
from bench.report import halves
from bench.report.halves import each


@pytest.fixture(autouse=True)
def two_of_us(monkeypatch):
    """However small the work and whatever else the tests have running."""
    monkeypatch.setattr(halves.threading, "active_count", lambda: 1)
    monkeypatch.setattr(halves.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def rows(item):
    return 10_000 * item


def test_both_do_a_part_and_the_order_is_that_of_the_items():
    found = each(lambda item: (item, os.getpid()), [1, 4, 2, 3], rows)
    assert [item for item, _ in found] == [1, 4, 2, 3]
    assert len({process for _, process in found}) == 2
    assert dict(found)[4] != dict(found)[3], "the two largest stand on two sides"


@pytest.mark.parametrize("items", [[1], [0.1, 0.2]], ids=["one", "small ones"])
def test_what_is_not_worth_it_stays_here(items):
    assert each(lambda item: (item, os.getpid()), items, rows) == [(item, os.getpid()) for item in items]


def test_one_core_or_threads_mean_one_process(monkeypatch):
    monkeypatch.setattr(halves.threading, "active_count", lambda: 2)
    assert set(each(lambda _: os.getpid(), [1, 2, 3], rows)) == {os.getpid()}
    monkeypatch.setattr(halves.threading, "active_count", lambda: 1)
    monkeypatch.setattr(halves.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert set(each(lambda _: os.getpid(), [1, 2, 3], rows)) == {os.getpid()}


def test_what_it_raises_is_raised_here():
    def refuse(item):
        if item == 1:
            raise UserError("column is unknown")
        return item

    with pytest.raises(UserError, match="column is unknown"):
        each(refuse, [2, 1, 3], rows)


def test_its_part_is_done_here_where_it_dies():
    here = os.getpid()

    def die(item):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    assert each(die, [1, 2, 3], rows) == [1, 2, 3]


def test_what_cannot_be_sent_is_made_here_and_nothing_is_said_of_it(capfd):
    found = each(lambda item: lambda: item, [1, 2, 3], rows)
    assert [one() for one in found] == [1, 2, 3]
    assert not capfd.readouterr().err
