"""The clocks, the warm-up and one cell's rounds, with time that is made up."""

import itertools
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.plan.measure import COMPANY, Context, Invalid, Precision, Turn
from bench.timing import company, rounds
from bench.timing.clock import DeviceClock, HostClock, calls_within, warm_up
from bench.timing.company import Company
from bench.timing.rounds import LEAST, Rounds
from tests.bench.launchers.test_local import job


class FakeDevice:
    """A call queues ``ms`` of work, and an event is reached when what was queued before it is done."""

    def __init__(self, ms):
        self.ms, self.now, self.waited, self.log = itertools.cycle(ms), 0.0, 0, []

    def call(self):
        self.now += next(self.ms)

    def synchronize(self):
        self.waited += 1

    def event(self):
        device = self

        class Event:
            def record(self):
                self.at = device.now

            def elapsed_time(self, other):
                assert device.waited, "an event is read before the device has reached it"
                return other.at - self.at

        return Event()


def test_a_device_is_waited_for_once_and_every_call_has_its_own_time():
    device = FakeDevice([1.0, 2.0, 4.0])
    assert DeviceClock(device.event, device.synchronize).times(device.call, 3) == [1.0, 2.0, 4.0]
    assert device.waited == 1


def test_the_host_clock_gives_milliseconds(monkeypatch):
    ticks = iter([0, 1_500_000, 2_000_000, 5_000_000])
    monkeypatch.setattr("bench.timing.clock.time.perf_counter_ns", lambda: next(ticks))
    assert HostClock().times(lambda: None, 2) == [1.5, 3.0]


class Script:
    """A clock whose times are written down."""

    def __init__(self, times):
        self.script = iter(times)

    def times(self, call, count):
        return [next(self.script) for _ in range(count)]


def test_a_warm_up_goes_on_until_it_gets_no_faster():
    falling = [100.0 * 0.9**step for step in range(40)]
    found = warm_up(Script([*falling, *[1.0] * 500]), lambda: None, budget_s=60)
    assert found.steady
    assert found.ms == 1.0
    assert found.calls > 40
    at_once = warm_up(Script(itertools.repeat(5.0)), lambda: None)
    assert at_once.steady
    assert at_once.calls < 25
    never = warm_up(Script(1000.0 * 0.9**step for step in itertools.count()), lambda: None, budget_s=0.5)
    assert not never.steady


def test_calls_that_fit():
    assert calls_within(0.06, 5.0, most=40) == 12
    assert calls_within(0.06, 500.0, most=40) == 1
    assert calls_within(0.06, 0.001, most=40) == 40


def cell(**axes):
    return replace(job("latency").cell, **axes)


def context(**precision):
    return Context(lambda *_: None, 1, None, precision=Precision(**precision))


@pytest.fixture
def seen(monkeypatch):
    """What a round's watch sees, to be changed by the test."""
    found = SimpleNamespace(company=Company(others_cores=0.0), workers=[])
    found.stop = lambda own_s: found.company

    def watch(device, index, workers):
        found.workers.append(workers)
        return SimpleNamespace(start=lambda: None, stop=found.stop)

    monkeypatch.setattr(company, "watch", watch)
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda pid: {0, 1})
    return found


def take(script, **precision):
    taken = Rounds("latency", lambda: None, {"head": lambda: None}, script, cell(batch=4), context(**precision))
    taken.take()
    return taken.outcome({"deviation": 0.0}, rate="images_per_s")


def test_rounds_end_when_the_target_is_reached(seen):
    outcome = take(Script(itertools.repeat(100.0)), target=0.01, budget_s=1e9)
    assert LEAST <= outcome.values["rounds"] <= LEAST + 2, "as soon as there are enough"
    assert outcome.values["latency_ms"] == outcome.values["head_ms"] == 100.0
    assert outcome.values["images_per_s"] == pytest.approx(40.0)
    assert outcome.values["latency_ended"] == "target"
    assert outcome.values["latency_ci_pct"] == 0
    assert outcome.values["latency_p90_ms"] is None, "a few samples have no ninth decile"
    assert outcome.samples["latency_ms_round"] == list(range(outcome.values["rounds"]))


def test_rounds_end_with_the_budget_and_say_so(seen):
    outcome = take(Script(itertools.cycle([100.0, 130.0, 90.0, 101.0, 77.0])), target=0.001, budget_s=4.0)
    assert outcome.values["latency_ended"] == "budget"
    assert outcome.values["latency_ci_pct"] > 0.1
    assert 26 <= outcome.values["rounds"] <= 36, "100 ms a round, and a third of that for the part"


def test_short_calls_are_settled_and_parts_take_turns(seen):
    calls = {"main": 0, "a": 0, "b": 0}

    def count(name):
        def call():
            calls[name] += 1

        return call

    class Clock:
        def times(self, call, count):
            for _ in range(count):
                call()
            return [2.0] * count

    taken = Rounds(
        "latency",
        count("main"),
        {"a": count("a"), "b": count("b")},
        Clock(),
        cell(),
        context(budget_s=2.0, target=1e-9),
    )
    taken.take()
    outcome = taken.outcome({}, rate="images_per_s")
    rounds = outcome.values["rounds"]
    assert len(outcome.samples["latency_ms"]) == 4 * rounds, "8 ms a turn"
    assert calls["main"] >= 6 * rounds, "4 ms before each that are not kept"
    assert set(outcome.samples["a_ms_round"]) == set(range(0, rounds, 2))
    assert set(outcome.samples["b_ms_round"]) == set(range(1, rounds, 2))
    assert outcome.values["latency_p90_ms"] == 2.0


@pytest.mark.parametrize(
    ("ms", "kept", "before"), [(5.0, 15, 6), (0.25, 100, 320), (0.01, 100, 1000), (40.0, 1, 1), (150.0, 1, 0)]
)
def test_a_turn_of_a_gpu_is_as_long_as_its_power_takes_to_settle(seen, ms, kept, before):
    """In bursts of 8 ms it never reaches the power limit that it has in service."""
    calls, parts = [], []

    class Clock:
        def times(self, call, count):
            (parts if call is part else calls).append(count)
            return [ms] * count

    def part():
        pass

    taken = Rounds(
        "latency", lambda: None, {"a": part}, Clock(), cell(device="cuda"), context(budget_s=2.0, target=1e-9)
    )
    taken.take()
    samples = taken.outcome({}, rate="images_per_s").samples
    turns = max(samples["latency_ms_round"]) + 1
    assert len(samples["latency_ms"]) == kept * turns
    if before:
        assert calls[-2:] == [pytest.approx(before, abs=1), kept]
    assert calls.count(kept) >= turns
    assert parts[-1] == max(1, min(25, int(25 / ms)))


def test_parts_take_a_quarter_of_the_time_once_each_was_there_twice(seen):
    def part():
        """Far slower than the whole, as decoding is in a small detector."""

    whole = itertools.cycle(range(52, 70, 3))

    class Clock:
        def times(self, call, count):
            return [400.0 if call is part else next(whole) for _ in range(count)]

    taken = Rounds(
        "latency", lambda: None, {"a": part, "b": part}, Clock(), cell(), context(budget_s=10.0, target=1e-9)
    )
    taken.take()
    samples = taken.outcome({}, rate="images_per_s").samples
    on_parts = sum(samples["a_ms"]) + sum(samples["b_ms"])
    assert samples["a_ms_round"][:2] == [0, 2]
    assert samples["b_ms_round"][:2] == [1, 3]
    assert 2400 <= on_parts <= 3000, "of ten seconds"
    assert len(samples["latency_ms"]) >= 120


def test_a_long_call_is_warmed_up_by_few():
    script = Script(itertools.repeat(300.0))
    assert warm_up(script, lambda: None).calls == 3
    assert warm_up(Script(itertools.repeat(30.0)), lambda: None).calls == 6


@pytest.fixture
def company_of(monkeypatch, seen):
    """Windows whose company is given one after the other, and a clock that is slow beside others."""
    state = {}

    class Clock:
        def times(self, call, count):
            return [500.0 if state["others"] else 100.0] * count

    def start(windows):
        script = itertools.cycle(windows)

        def watch(device, index, workers):
            state["others"] = next(script)
            mine = Company(others_cores=state["others"])
            return SimpleNamespace(start=lambda: None, stop=lambda own_s: mine)

        state["others"] = 0.0
        monkeypatch.setattr(company, "watch", watch)
        return Clock()

    return start


def test_disturbed_rounds_are_taken_again_and_kept_apart(company_of):
    """Company in every other window: the figures are from the quiet ones, and all samples are kept."""
    outcome = take(company_of([0.0, 1.5]), target=0.01, budget_s=1e9)
    disturbed = outcome.values["disturbed_rounds"]
    assert disturbed >= 3
    assert outcome.values["rounds"] - disturbed >= LEAST
    assert outcome.values["latency_ms"] == outcome.values["head_ms"] == 100.0
    assert outcome.samples["latency_ms"].count(500.0) == disturbed == len(outcome.samples["disturbed_round"])


def test_a_cell_that_never_had_the_machine_says_so_and_has_a_wide_interval(company_of):
    found = take(company_of([0.75]), budget_s=2.0)
    assert found.values["latency_ms"] == 500.0
    assert found.values["disturbed_rounds"] == found.values["rounds"] >= 2 * LEAST, "others were waited for"
    assert re.fullmatch(r"(\d+) of \1 rounds were disturbed .*0\.75 cores.*", found.values[COMPANY])
    assert found.values["latency_ci_pct"] == pytest.approx(100 * (500 - 500 / 3) / 2 / 500), "two on one CPU"
    assert (found.values["latency_low_ms"], found.values["latency_high_ms"]) == (pytest.approx(500 / 3), 500)
    assert len(found.samples["company_round"]) == found.values["rounds"]
    hurried = take(company_of([0.75]), budget_s=2.0, company="allow")
    assert COMPANY in hurried.values
    assert hurried.values["rounds"] < found.values["rounds"]


def test_where_company_is_refused_it_is_invalid_with_all_samples(company_of):
    with pytest.raises(Invalid, match=r"(\d+) of \1 rounds were disturbed .*1\.25 cores.*leave out --alone") as caught:
        take(company_of([1.25]), budget_s=2.0, company="refuse")
    found = caught.value.outcome
    assert found.values["disturbed_rounds"] == found.values["rounds"] >= 2 * LEAST
    assert len(found.samples["latency_ms"]) == found.values["rounds"], "never discarded in silence"
    assert len(found.samples["disturbed_round"]) == found.values["rounds"]
    assert COMPANY in found.values, "so that a run that takes company knows what to take again"


def test_enough_quiet_rounds_are_no_company(company_of):
    found = take(company_of([0.0, 1.5]), target=0.01, budget_s=1e9, company="allow")
    assert COMPANY not in found.values
    assert found.values["latency_ms"] == 100.0


def test_what_cannot_be_known_is_no_disturbance_and_no_number(seen):
    seen.company = Company()
    outcome = take(Script(itertools.repeat(100.0)))
    assert "others_cores" not in outcome.samples
    assert outcome.values["disturbed_rounds"] == 0
    assert outcome.values["unknown_company"] == "load of others, hypervisor's share, throttling, clock"


def test_other_workers_of_the_run_are_no_strangers(seen):
    told = []
    seen.stop = lambda own_s: told.append(own_s) or seen.company
    turns = [Turn(index, 5, cpu_s=10.0 * index) for index in range(100)]
    taken = Rounds("latency", lambda: None, {}, Script(itertools.repeat(1000.0)), cell(), context(budget_s=5.0))
    taken.context = replace(taken.context, turns=lambda: iter(turns))
    taken.take()
    assert set(seen.workers) == {5}
    assert set(told) == {10.0}, "what they used since the window was opened"


def test_every_busy_thread_has_a_cpu_of_its_own_and_they_go_round(monkeypatch, tmp_path):
    me = threading.get_native_id()
    for thread, used in {me: 5, 7001: 90, 7002: 3, 7003: 40}.items():
        (tmp_path / str(thread)).mkdir()
        (tmp_path / str(thread) / "stat").write_text(f"{thread} (odd) name) S " + " ".join(["0"] * 10) + f" {used} 1 0")
    assert rounds._busiest(3, tmp_path) == (me, 7001, 7003)
    assert rounds._busiest(3, tmp_path / "none") == ()
    allowed = []
    monkeypatch.setattr(rounds, "_busiest", lambda count: (me, 7001)[:count])
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda pid: {2, 4})
    monkeypatch.setattr(rounds.os, "sched_setaffinity", lambda thread, cpus: allowed.append((thread, set(cpus))))
    places = rounds.Places(2)
    with places.taken(6):
        assert allowed == [(me, {2}), (7001, {4})]
    assert allowed[2:] == [(me, {2, 4}), (7001, {2, 4})]
    allowed.clear()
    with places.taken(7):
        assert allowed == [(me, {4}), (7001, {2})]
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda pid: {2, 4, 6})
    assert rounds.Places(2).busy == (), "with a CPU to spare the scheduler does it"
    assert rounds.Places(1).busy == (me,)
