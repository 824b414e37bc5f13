"""What answers in a process of its own (`bench.launchers._aside`), in every way that a library can."""

import os
import signal
import sys
import time


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
