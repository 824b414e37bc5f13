"""A start of a worker is not cut off half-way, whichever thread of this process a signal comes to."""

import os
import signal
import threading
import time

import pytest

from bench.launchers._worker import _interrupt_later


class Interrupted(Exception):
    pass


@pytest.fixture
def another_thread():
    """One that masks nothing, as that of a lock does."""
    end = threading.Event()

    def work():
        while not end.wait(1e-4):
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    end.set()
    thread.join()


@pytest.mark.usefixtures("another_thread")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_effect_at_the_end(number):
    def interrupted(*_):
        raise Interrupted

    def start():
        with _interrupt_later():
            os.kill(os.getpid(), number)
            for _ in range(100):
                time.sleep(1e-4)  # the other one works, too, and Python looks for signals
            done.append(number)

    before = signal.signal(number, interrupted)
    done = []
    try:
        with pytest.raises(Interrupted):
            start()
        assert done == [number]
        assert signal.getsignal(number) is interrupted
    finally:
        signal.signal(number, before)
