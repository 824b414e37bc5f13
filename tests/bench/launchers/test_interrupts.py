"""A start of a worker is not cut off half-way, whichever thread of this process a signal comes to."""

import os
import signal
import threading

import pytest

from bench.launchers._worker import _interrupt_later


class Interrupted(Exception):
    pass


@pytest.fixture
def another_thread():
    """One that masks nothing, as that of a lock does."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


@pytest.mark.usefixtures("another_thread")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_effect_at_the_end(number):
    def interrupted(*_):
        raise Interrupted

    before = signal.signal(number, interrupted)
    done = []
    try:
        with pytest.raises(Interrupted), _interrupt_later():
            os.kill(os.getpid(), number)
            done += [sum(range(100)) for _ in range(1000)]  # Python looks for signals in here
        assert len(done) == 1000
        assert signal.getsignal(number) is interrupted
    finally:
        signal.signal(number, before)
