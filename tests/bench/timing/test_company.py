"""Who else was there: counts from made-up kernel folders, and a driver that answers as told."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import pynvml
import pytest

from bench.timing import company, nvml
from bench.timing.company import OTHERS, POWER_CAP, Company, Watch, disturbed, watch

CARDS = ["GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb0000-0000"]
MIG = "MIG-cccc0000-0000"


class Driver:
    """Stands in for NVML: answers by name of the question; a question without an answer is not supported."""

    def __init__(self, monkeypatch, *, names=("H100", "H100", "H100"), mig=()):
        self.answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: len(CARDS),
            "nvmlDeviceGetHandleByIndex": lambda index: CARDS[index],
            "nvmlDeviceGetName": lambda card: names[CARDS.index(card)],
            "nvmlDeviceGetUUID": lambda card: card,
            "nvmlDeviceGetMigMode": lambda card: [int(card in mig), int(card in mig)],
            "nvmlDeviceGetHandleByUUID": self.by_uuid,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": self.card_of,
        }
        asked = [name for name in dir(pynvml) if name.startswith("nvmlDevice") or name == "nvmlInit"]
        for name in asked:
            monkeypatch.setattr(pynvml, name, lambda *arguments, name=name: self.ask(name, *arguments))

    def ask(self, name, *arguments):
        if name not in self.answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.answers[name](*arguments)

    def by_uuid(self, uuid):
        if uuid in {*CARDS, MIG}:
            return uuid
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def card_of(self, handle):
        if handle == MIG:
            return CARDS[1]
        raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)


@pytest.fixture
def driver(monkeypatch):
    return Driver(monkeypatch)


def process(pid, mib):
    return SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * 2**20)


def test_without_a_driver_there_is_no_gpu_and_no_error(monkeypatch):
    def missing():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert nvml.open_gpu(0) is None
    assert nvml.open_gpu(CARDS[0]) is None
    assert watch("cuda", 0).gpu is None


@pytest.mark.parametrize(
    ("visible", "index", "found"),
    [
        (None, 1, CARDS[1]),
        (None, 3, None),
        (None, -1, None),
        ("2,0", 0, CARDS[2]),
        ("2, 0", 1, CARDS[0]),
        ("2,0", 2, None),
        ("", 0, None),
        ("-1", 0, None),
        ("0,-1,1", 0, CARDS[0]),
        ("0,-1,1", 1, None),  # CUDA sees none behind the first that does not exist
        ("0,7,1", 1, None),
        ("1,1", 0, None),  # named twice: CUDA sees none at all
        (CARDS[2], 0, CARDS[2]),
        ("GPU-bbbb,GPU-aaaa1", 1, CARDS[0]),
        ("GPU-aaaa", 0, None),  # two begin like that
        ("GPU-", 0, None),
        ("GPU-dddd", 0, None),
        (MIG, 0, MIG),
        ("MIG-ffff", 0, None),
    ],
)
def test_an_index_is_looked_up_as_cuda_would(driver, visible, index, found):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpu = nvml.open_gpu(index, environment)
    assert (gpu and gpu.uuid) == found


def test_the_real_environment_is_the_one_that_counts(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    gpu = nvml.open_gpu(0)
    assert gpu is not None
    assert gpu.uuid == CARDS[2]


def test_a_uuid_is_found_with_or_without_its_kind(driver):
    for text, found in ((CARDS[2], CARDS[2]), (CARDS[2][4:], CARDS[2]), (MIG[4:], MIG), ("", None), ("eeee", None)):
        gpu = nvml.open_gpu(text)
        assert (gpu and gpu.uuid) == found, text


def test_unlike_gpus_have_no_index_unless_cuda_counts_by_the_bus(monkeypatch):
    Driver(monkeypatch, names=("T4", "H100", "H100"))
    assert nvml.open_gpu(0, {}) is None
    assert nvml.open_gpu(0, {"CUDA_VISIBLE_DEVICES": "1"}) is None
    by_bus = nvml.open_gpu(0, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    by_name = nvml.open_gpu(0, {"CUDA_VISIBLE_DEVICES": CARDS[1]})
    assert by_bus is not None
    assert by_name is not None
    assert (by_bus.uuid, by_name.uuid) == (CARDS[0], CARDS[1])


def test_a_sliced_card_is_not_taken_for_one_of_its_slices(monkeypatch):
    Driver(monkeypatch, mig={CARDS[1]})
    assert nvml.open_gpu(1, {}) is None
    assert nvml.open_gpu(CARDS[1]) is None
    other = nvml.open_gpu(0, {})
    assert other is not None
    assert other.uuid == CARDS[0]


def test_a_slice_has_no_energy_of_its_own_and_the_clock_of_its_card(driver):
    driver.answers |= {
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1,
        "nvmlDeviceGetPowerUsage": lambda handle: 1,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {CARDS[1]: 1500}[handle],
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: {MIG: [process(1, 1)]}[handle],
    }
    gpu = nvml.open_gpu(0, {"CUDA_VISIBLE_DEVICES": MIG})
    assert gpu is not None
    assert (gpu.energy_j(), gpu.power_w()) == (None, None)
    assert (gpu.sm_clock_mhz(), gpu.compute_processes()) == (1500.0, 1)


def test_answers_come_in_the_units_that_their_names_say(driver):
    driver.answers |= {
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 12_500,
        "nvmlDeviceGetPowerUsage": lambda handle: 70_250,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {pynvml.NVML_CLOCK_SM: 1980}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {pynvml.NVML_CLOCK_SM: 2000}[kind],
        "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [process(7, 300), process(7, 20), process(8, None)],
    }
    gpu = nvml.open_gpu(0, {})
    assert gpu is not None
    assert gpu.energy_j() == pytest.approx(12.5)
    assert gpu.power_w() == pytest.approx(70.25)
    assert (gpu.sm_clock_mhz(), gpu.max_sm_clock_mhz(), gpu.temperature_c()) == (1980, 2000, 41)
    assert gpu.compute_processes() == 2, "a process may have two contexts"
    assert gpu.process_memory_mib(7) == pytest.approx(320)
    assert gpu.process_memory_mib(8) is None
    assert gpu.process_memory_mib(9) is None


def test_what_a_driver_does_not_know_is_none(driver):
    gpu = nvml.open_gpu(0, {})
    assert gpu is not None
    assert [
        gpu.energy_j(),
        gpu.power_w(),
        gpu.sm_clock_mhz(),
        gpu.max_sm_clock_mhz(),
        gpu.throttle_reasons(),
        gpu.compute_processes(),
        gpu.process_memory_mib(os.getpid()),
        gpu.temperature_c(),
    ] == [None] * 8


@pytest.mark.parametrize(
    "question", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0, ()),
        (0x1 | 0x2 | 0x100, ()),  # idle, clocks that a user or a display has set
        (0x4 | 0x1, ("power cap",)),
        (0x8 | 0x40, ("hardware slowdown", "thermal slowdown by the hardware")),
        (0x10 | 0x20 | 0x80, ("sync boost", "thermal slowdown by the driver", "power brake")),
    ],
)
def test_only_what_slows_down_is_throttling(driver, question, bits, reasons):
    driver.answers[question] = lambda handle: bits
    gpu = nvml.open_gpu(0, {})
    assert gpu is not None
    assert gpu.throttle_reasons() == reasons


class Machine:
    """Folders as the kernel has them, of two CPUs, and a clock."""

    def __init__(self, folder, monkeypatch, mine=(0, 1)):
        self.proc, self.cpus = folder / "proc", folder / "cpu"
        self.proc.mkdir()
        self.seconds = self.own_s = 0.0
        self.rows = {"cpu0": [0] * 10, "cpu1": [0] * 10}
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(mine))
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)
        monkeypatch.setattr(time, "process_time", lambda: self.own_s)
        self.tick = os.sysconf("SC_CLK_TCK")
        self.write()

    def write(self):
        total = [sum(column) for column in zip(*self.rows.values(), strict=True)]
        lines = [f"{name} {' '.join(map(str, row))}" for name, row in {"cpu ": total, **self.rows}.items()]
        (self.proc / "stat").write_text("\n".join([*lines, "intr 12345 0 0", "ctxt 99"]) + "\n")

    def add(self, cpu, *seconds):
        """Time of a CPU: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
        for place, more in enumerate(seconds):
            self.rows[cpu][place] += round(more * self.tick)
        self.write()

    def put(self, cpu, name, value):
        path = self.cpus / f"cpu{cpu}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def watch(self, *, on_cpu=True, gpu=None, own=1):
        return Watch(gpu, own, on_cpu=on_cpu, proc=self.proc, cpus=self.cpus)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_others_are_what_is_busy_and_not_this_process(machine):
    machine.add("cpu0", 5, 5, 5, 5, 5, 5, 5, 5, 5, 5)  # before the interval: nobody's
    eye = machine.watch()
    eye.start()
    machine.seconds, machine.own_s = 2.0, 1.1
    machine.add("cpu0", 0.8, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1, 0.6, 0.8, 0.2)  # busy 1.5, guests within user and nice
    machine.add("cpu1", 0.2, 0, 0, 1.8)
    found = eye.stop()
    assert found.others_cores == pytest.approx((1.5 + 0.2 - 1.1) / 2)
    assert found.steal_cores == pytest.approx(0.3)
    assert (found.throttled, found.clock_mhz, found.gpu_processes) == (None, None, None)


def test_cpus_that_this_process_may_not_use_do_not_count(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch, mine=(1,))
    eye = machine.watch()
    eye.start()
    machine.seconds = 1.0
    machine.add("cpu0", 1.0)
    machine.add("cpu1", 0.25, 0, 0, 0.5, 0, 0, 0, 0.25)
    found = eye.stop()
    assert (found.others_cores, found.steal_cores) == (0.25, 0.25)


def test_less_than_nothing_is_nothing(machine):
    eye = machine.watch()
    eye.start()
    machine.seconds, machine.own_s = 1.0, 0.5
    machine.add("cpu0", 0.4, 0, 0, 0.6)
    assert eye.stop().others_cores == 0


def test_an_interval_of_a_few_jiffies_says_nothing(machine):
    eye = machine.watch()
    for seconds, known in ((0.049, False), (0.05, True)):
        eye.start()
        machine.seconds += seconds + 1e-9
        machine.add("cpu0", 0.04)
        found = eye.stop()
        assert (found.others_cores is not None, found.steal_cores is not None) == (known, known)


@pytest.mark.parametrize("text", [None, "", "cpu 1 2\n", "cpu x y z a b c d e\n", "cpu0 1 1 1 1 1 1 1 1\n"])
def test_a_kernel_that_tells_nothing_leaves_it_unknown(machine, text):
    stat = machine.proc / "stat"
    stat.unlink() if text is None else stat.write_text(text)
    eye = machine.watch()
    eye.start()
    machine.seconds = 1.0
    assert eye.stop() == Company()


def test_each_interval_needs_its_start(machine):
    eye = machine.watch()
    with pytest.raises(RuntimeError, match="start"):
        eye.stop()
    eye.start()
    eye.stop()
    with pytest.raises(RuntimeError, match="start"):
        eye.stop()


def test_threads_of_this_process_are_its_own(tmp_path, monkeypatch):
    clock = time.process_time
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(time, "process_time", clock)
    eye = machine.watch()
    eye.start()

    def work():
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    machine.seconds = 1.0
    machine.add("cpu0", 0.1)
    assert eye.stop().others_cores == 0


def test_throttling_and_clock_of_the_cpus_in_use(machine):
    for cpu, khz in ((0, 2_000_000), (1, 3_000_000)):
        machine.put(cpu, "thermal_throttle/core_throttle_count", 4)
        machine.put(cpu, "cpufreq/scaling_cur_freq", khz)
    eye = machine.watch()
    eye.start()
    found = eye.stop()
    assert (found.throttled, found.clock_mhz) == ((), 2500)
    eye.start()
    machine.put(1, "thermal_throttle/core_throttle_count", 7)
    assert eye.stop().throttled == ("thermal (3 events)",)


def test_on_a_gpu_its_own_clock_and_slowdowns_are_told(machine, driver):
    machine.put(0, "cpufreq/scaling_cur_freq", 2_000_000)
    driver.answers |= {
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1200,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x4,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [process(1, 1), process(2, 1), process(3, 1)],
    }
    eye = machine.watch(on_cpu=False, gpu=nvml.open_gpu(0, {}), own=2)
    eye.start()
    found = eye.stop()
    assert (found.throttled, found.clock_mhz, found.gpu_processes) == (("power cap",), 1200, 1)


@pytest.mark.parametrize(("running", "strangers"), [(0, None), (1, None), (2, 0), (5, 3)])
def test_a_driver_that_does_not_see_us_does_not_see_others(machine, driver, running, strangers):
    driver.answers["nvmlDeviceGetComputeRunningProcesses"] = lambda handle: [process(pid, 1) for pid in range(running)]
    eye = machine.watch(on_cpu=False, gpu=nvml.open_gpu(0, {}), own=2)
    eye.start()
    assert eye.stop().gpu_processes == strangers


@pytest.mark.parametrize(
    ("others", "steal", "threads", "telling"),
    [
        (OTHERS, 0.0, 2, ""),
        (OTHERS + 0.01, 0.0, 2, "0.26 cores busy"),
        (1.2, 0.0, 1, ""),  # one core is free
        (1.3, 0.0, 1, "1.30 cores busy"),
        (0.2, 0.1, 2, "hypervisor took 0.10"),
        (0.2, None, 2, ""),
        (0.5, None, 2, "0.50 cores busy"),
        (0.5, 0.0, 3, "0.50 cores busy"),  # more threads than cores leave nothing, not less
        (None, 2.0, 2, ""),
        (None, None, 2, ""),
    ],
)
def test_on_a_cpu_others_disturb_beyond_the_cores_that_are_free(others, steal, threads, telling):
    # A GPU's processes are no reason here, and a clock is no reason by itself.
    found = disturbed(Company(others, steal, (), 1.0, 4), 2, threads, "cpu")
    assert telling in found
    assert bool(found) == bool(telling)


def test_of_many_threads_a_share_is_let_pass():
    assert not disturbed(Company(0.9, 0.0, (), 1.0), 16, 16, "cpu")
    assert "1.10 cores" in disturbed(Company(1.1, 0.0, (), 1.0), 16, 16, "cpu")


def test_heat_disturbs_a_cpu():
    assert "thermal (3 events)" in disturbed(Company(0.0, 0.0, ("thermal (3 events)",), 1.0), 2, 2, "cpu")


@pytest.mark.parametrize(
    ("throttled", "clock", "processes", "telling"),
    [
        ((), 1000.0, 0, ""),
        (None, None, None, ""),
        ((), 1000.0, 1, "1 other process computes on the GPU"),
        ((), 1000.0, 2, "2 others compute on the GPU"),
        (("power cap", "sync boost"), 1200.0, 0, "at 1200 MHz: sync boost"),
        (("thermal slowdown by the driver",), None, None, "slowed down: thermal slowdown"),
        (("power cap",), None, None, ""),  # how a GPU runs at full load
    ],
)
def test_on_a_gpu_any_stranger_and_any_slowdown_but_the_power_limit_disturbs(throttled, clock, processes, telling):
    found = disturbed(Company(1.0, 0.2, throttled, clock, processes), 2, 2, "cuda")
    assert telling in found
    assert bool(found) == bool(telling)


def test_kernels_are_launched_by_a_thread_that_needs_a_cpu():
    """Of a small model the launches are the time; how many threads its cell has does not matter."""
    assert not disturbed(Company(3.2, 0.0, (), 1000.0, 0), 4, 4, "cuda")
    assert "4.00 cores busy, and 1 thread on 4 leave 3" in disturbed(Company(4.0, 0.0, (), 1000.0, 0), 4, 4, "cuda")
    assert not disturbed(Company(None, None, (), 1000.0, 0), 1, 1, "cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_busy_neighbour_is_seen_on_this_machine():
    import subprocess

    eye = watch("cpu")
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        eye.start()
        time.sleep(0.4)
        found = eye.stop()
        child.kill()
    assert found.others_cores is not None
    # Other neighbours may take the child's core from it, but then they are seen.
    assert 0.5 < found.others_cores + (found.steal_cores or 0) <= (os.cpu_count() or 1) + 0.5
    assert disturbed(found, 1, 1, "cpu")


def test_the_module_needs_no_torch():
    import subprocess

    text = f"import sys, {company.__name__}, {nvml.__name__}, bench.report.roofline; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", text], check=True)


@pytest.mark.parametrize(
    ("seen", "threads", "device", "share"),
    [
        (Company(others_cores=0.5), 2, "cpu", 1 / 2),
        (Company(others_cores=0.75), 2, "cpu", 1 / 3),
        (Company(others_cores=0.5, steal_cores=0.25), 2, "cpu", 1 / 3),
        (Company(others_cores=0.75), 1, "cpu", 1.0),
        (Company(others_cores=1.9), 2, "cpu", 1 / 5),
        (Company(), 2, "cpu", 0.0),
        (Company(others_cores=0.1, throttled=("thermal (3 events)",)), 2, "cpu", 0.0),
        (Company(gpu_processes=1), 2, "cuda", 0.5),
        (Company(gpu_processes=0, throttled=("thermal",)), 2, "cuda", 0.0),
        (Company(gpu_processes=3, throttled=(POWER_CAP,)), 2, "cuda", 0.25),
        (Company(others_cores=0.9, gpu_processes=0), 2, "cuda", 1.0),
        (Company(others_cores=2.0, gpu_processes=1), 2, "cuda", 1 / 6),
    ],
)
def test_what_others_left_is_the_least_that_it_can_have_been(seen, threads, device, share):
    assert company.left(seen, 2, threads, device) == pytest.approx(share)
