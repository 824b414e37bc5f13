"""What answers in a process of its own (`bench.launchers._aside`), in every way that a library can."""

import os
import signal
import sys
import time
from types import SimpleNamespace


def respond(question, *arguments):
    if question == "raise":
        raise RuntimeError("backend='inductor' raised:\n\n  no compiler\nand a page more")
    if question == "bare":
        raise ValueError
    if question == "leave":
        raise SystemExit(3)
    if question == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if question == "hang":
        time.sleep(600)
    if question == "noise":
        sys.stdout.write("a library's banner\n")
        sys.stdout.flush()
        os.write(2, b"and its warning\n")
    return os.getpid() if question == "pid" else arguments


def seen(names, facts, visible):
    """What torch might see, for `bench.devices`; ``facts["visible"]``: the cards that it has to be asked about."""
    assert visible == facts.get("visible", visible), visible
    found = tuple(SimpleNamespace(name=name) for name in names)
    cuda, said = facts.get("cuda", "13.2"), facts.get("said", "")
    return SimpleNamespace(version="2.15.0", cuda=cuda, devices=found, said=said)


def crash(visible):
    respond("crash")
