"""What a measurement can do wrong, and a worker that does it: importable by forked workers."""

import contextlib
import os
import signal
import sys
import time
from types import SimpleNamespace
from unittest import mock


def good(context):
    """Nothing wrong."""


def raises(context):
    raise KeyError("lost")


def unsupported(context):
    from backbones.contract import Unsupported

    raise Unsupported("no such window; nearest: 7")


def invalid(context):
    from bench.plan.measure import Invalid

    raise Invalid("the loss became nan at step 3 of 9")


def out_of_memory(context):
    import torch

    torch.empty(1 << 60)


def killed(context):
    os.kill(os.getpid(), signal.SIGKILL)


def _with_child(context):
    """A child that would live for ten minutes; its id is reported."""
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    context.report("a child", child.pid, 0)


def killed_with_a_child(context):
    _with_child(context)
    killed(context)


def hangs_with_a_child(context):
    """Deaf to all that can be ignored."""
    import signal as signals

    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
        signals.signal(number, signals.SIG_IGN)
    _with_child(context)
    hangs(context)


def leaves_a_child(context):
    _with_child(context)


def terminated(context):
    os.kill(os.getpid(), signal.SIGTERM)


def crashes(context):
    os.kill(os.getpid(), signal.SIGSEGV)


def exits(context):
    os._exit(3)


def hangs(context):
    context.report("hanging", os.getpid(), 0)
    time.sleep(600)


def chatters(context):
    sys.stdout.write("x" * 100_000)
    os.system("echo noise >&2")
    raise ValueError("after much noise")


def takes_turns(context, rounds=8):
    """Eight rounds of a made-up drift; who had which turn is appended to a file."""
    from bench.plan.measure import Outcome

    series, indices = [], []
    for turn in context.turns():
        with (context.cache / "turns").open("a") as file:
            file.write(f"{turn.index} {turn.workers} {os.getpid()}\n")
        series += [10.0 + turn.index, 12.0 + turn.index]
        indices += [turn.index] * 2
        if turn.index == rounds - 1:
            break
    return Outcome({"x_ms": 1.0}, {"x_ms": series, "x_ms_round": indices})


def wants_all_memory(context):
    """Runs out of it beside others."""
    for turn in context.turns():
        if turn.workers > 1:
            raise MemoryError("no room")
        break
    return takes_turns(context)


def wants_the_machine(context):
    """Runs out of memory while another job of the run is there: each leaves a file as long as it runs."""
    mine = context.cache / f"running {os.getpid()}"
    mine.touch()
    time.sleep(0.5)
    crowded = len(list(context.cache.glob("running *"))) > 1
    time.sleep(0.5)
    mine.unlink()
    if crowded:
        raise MemoryError("no room")


def starves_its_neighbour(context):
    """Runs out of memory, after some seconds in which a neighbour would do so, too, if there was one at its start."""
    mine = context.cache / f"running {os.getpid()}"
    mine.touch()
    time.sleep(0.5)
    crowded = len(list(context.cache.glob("running *"))) > 1
    time.sleep(float(os.getpid() % 2))  # not both at one moment
    mine.unlink()
    if crowded:
        raise MemoryError("no room")


def dies_in_its_turn(context):
    for turn in context.turns():
        if turn.index == 2:
            killed(context)


def hangs_in_its_turn(context):
    for turn in context.turns():
        if turn.index == 1:
            hangs(context)


def refuses(context):
    unsupported(context)


def _visible():
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def says_what_it_sees(context):
    from bench.plan.measure import Outcome

    time.sleep(0.3)
    return Outcome({"x": 1.0, "seen": _visible(), "check": os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK", "")})


@contextlib.contextmanager
def _at_work(context):
    """Within it, others see that this process is at work, and on which card."""
    mine = context.cache / f"at work {os.getpid()} {_visible()}"
    mine.touch()
    try:
        yield
    finally:
        mine.unlink()


def _neighbours(context):
    """Cards of the other processes that are at work."""
    found = [path.name.split(" ")[2:] for path in context.cache.glob("at work *")]
    return [card for pid, card in found if int(pid) != os.getpid()]


def trains(context, patience_s=1.5):
    """A training that goes on until four of its kind are there, or for some seconds; most on its card is its value."""
    from bench.plan.measure import Outcome

    most = 0
    with _at_work(context):
        for step in range(3):
            context.report("training", step, 3)
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            neighbours = _neighbours(context)
            most = max(most, 1 + sum(card == _visible() for card in neighbours))
            if len(neighbours) >= 3:
                time.sleep(0.5)  # so that all see it
                break
            time.sleep(0.02)
    return Outcome({"x": 1.0, "most": most})


def wants_a_card(context):
    """A training that runs out of memory beside another one on its card."""
    import torch

    if trains(context, 1.0).values["most"] > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def waits_for_the_host(context, slowed=0.2):
    """Turns whose passes take longer while others are at work on other cards; who was is a series, too."""
    from bench.plan.measure import Outcome

    times, indices, crowd = [], [], []
    for turn in context.turns():
        most = 0
        with _at_work(context):
            until = time.monotonic() + 0.015
            while time.monotonic() < until:
                most = max(most, sum(card != _visible() for card in _neighbours(context)))
                time.sleep(0.001)
        times.append((10.0 + turn.index // 2 % 5) * (1 + slowed * most))
        indices.append(turn.index)
        crowd.append(float(most))
        if len(times) >= 20 * context.precision.budget_s:
            break
    return Outcome({"x_ms": 10.0}, {"x_ms": times, "x_ms_round": indices, "crowd": crowd})


def waits_for_nobody(context):
    return waits_for_the_host(context, slowed=0.0)


def fills_memory_in_its_turns(context):
    return takes_turns(context)


MEMORY = {"fills_memory_in_its_turns": (0.9, 0.2)}
"""Share of a device's memory that is free when they have loaded their model, and that they need beyond."""

# name -> (status that it must get, what its reason must say)
WAYS = {
    "raises": ("error", "KeyError: 'lost'"),
    "unsupported": ("unsupported", "nearest: 7"),
    "invalid": ("invalid", "nan at step 3"),
    "out_of_memory": ("oom", "memory"),
    "killed": ("error", "killed by signal 9"),
    "terminated": ("error", "SIGTERM"),
    "crashes": ("error", "SIGSEGV"),
    "exits": ("error", "exit code 3"),
    "hangs": ("timeout", "--timeout"),
    "chatters": ("error", "after much noise"),
}


def work(job, settings, threads, connection):
    """`bench.launchers.worker.work` with the function of the measure's name in place of the measure."""
    from bench.launchers import worker
    from bench.plan.measure import Outcome

    def measure(cell, context):
        found = globals()[job.measure.name](context)
        return Outcome({"x": 1.0}) if found is None else found

    memory = MEMORY.get(job.measure.name, (1.0, 0.0))
    with (
        mock.patch.object(worker, "_memory", return_value=memory),
        mock.patch.object(worker, "import_module", return_value=SimpleNamespace(measure=measure)),
        mock.patch.object(worker.catalogue, "get", return_value=SimpleNamespace(module="")),
    ):
        worker.work(job, settings, threads, connection)
