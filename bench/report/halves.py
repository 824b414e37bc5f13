"""What is made of many rows, by two processes: a table is independent of the next one, and machines have two cores."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

MANY = 10_000
"""Rows from which a second process is worth its start and what it has to send."""


def each(function: Callable[[Item], Found], items: Sequence[Item], rows: Callable[[Item], float]) -> list[Found]:
    """``function`` of every item, in their order.

    Where there is much to do, a forked process does about half of it: it has all that was read without being sent
    anything. It comes to the same, for none of it depends on the rest. Where it ends without an answer, its part is
    done here.

    Args:
        function: raises what it raises for one of the items, wherever it ran.
        items: at least one.
        rows: about how many rows it has to look at for an item.
    """
    theirs = _half([rows(item) for item in items])
    if not theirs:
        return [function(item) for item in items]
    ours, other = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_send, args=(function, [items[index] for index in theirs], other), daemon=True
    )
    with warnings.catch_warnings():
        # Other threads are numpy's, which wait for products of matrices; there are none here.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    other.close()
    try:
        found = {index: function(item) for index, item in enumerate(items) if index not in theirs}
        with contextlib.suppress(EOFError, OSError):
            found |= dict(zip(theirs, ours.recv(), strict=True))
    finally:
        process.kill()
        process.join()
        ours.close()
    return [found[index] if index in found else function(item) for index, item in enumerate(items)]


def _half(rows: Sequence[float]) -> list[int]:
    """Places of the items that a second process takes; none where one does."""
    alone = sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or threading.active_count() > 1
    if alone or len(rows) < 2 or sum(rows) < MANY:
        return []
    ours, theirs = 0.0, 0.0
    taken = []
    for index in sorted(range(len(rows)), key=lambda index: -rows[index]):
        if theirs < ours:
            taken.append(index)
            theirs += rows[index]
        else:
            ours += rows[index]
    return sorted(taken)


def _send(function: Callable[[Item], Found], items: Sequence[Item], to: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one ends both
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(Exception):  # it is raised again where it can be said
        found = [function(item) for item in items]
        to.send(found)  # all or nothing: what cannot be sent is made again, too
    to.close()
    os._exit(0)  # nothing that was inherited is to be tidied up
