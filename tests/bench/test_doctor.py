"""What the doctor says of machines that are made up, and of this one."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from bench import catalogue, cli, doctor
from bench.doctor import Finding, Torchside, Unknown, disagreement, examine, guarded, of_check, of_cpu
from bench.errors import UserError
from bench.plan.machine import Smi
from bench.run import Summary
from bench.timing import company, nvml
from bench.timing.company import Company

ROOT = catalogue.ROOT
TWO = Smi(True, ["V100", "V100"], "470.57.02", "11.4")
HERE = {("library", name): (True, "2.0") for name in doctor.LIBRARIES}


class Answers(Torchside):
    """Has the answers: (question, arguments) -> (whether it is one, what it is)."""

    def __init__(self, known):
        super().__init__()
        self.known = {**HERE, **known}

    def _asked(self, key):
        return self.known[key]


def torch(*names, **facts):
    """How torch sees a machine with these devices beside the CPU."""
    found = [SimpleNamespace(name=name, model="H100", memory_gib=80.0) for name in names]
    return SimpleNamespace(**{"version": "2.15.0", "cuda": "13.2", "hip": None, "said": "", **facts, "devices": found})


@pytest.fixture
def environment(monkeypatch):
    """Replaces facts of the environment."""
    found = doctor._environment()
    return lambda **facts: monkeypatch.setattr(doctor, "_environment", lambda: replace(found, **facts))


# How it is said


LONG = Finding(
    "problem",
    "nvidia-smi sees 2 GPUs and torch none of the scaled-dot-product machinery that it would need for that, today",
    "run `densebench run --matrix smoke --results HERE --device cpu` or `pip install --upgrade torch torchvision timm`",
)


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_and_neither_words_nor_commands_are_cut(width):
    text = LONG.render(width).plain
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("  problem  nvidia-smi sees")
    assert all(line.startswith(" " * 11) for line in lines[1:])
    assert "\N{NO-BREAK SPACE}" not in text
    assert any("`densebench run --matrix smoke --results HERE --device cpu`" in line for line in lines)
    assert " ".join(text.replace("-> ", "").split()) == f"problem {LONG.text} {LONG.do}"


def test_what_is_longer_than_a_line_is_not_cut():
    path = "/" + "folder/" * 20
    assert path in Finding("ok", f"results folder: {path}, 3 GiB free").render(80).plain


# One that fails is a finding, and the others go on


@pytest.mark.parametrize(
    ("error", "sign", "telling"),
    [
        (Unknown("torch cannot be imported"), "note", "memory is not looked at: torch cannot be imported"),
        (UserError("two files claim one name"), "problem", "two files claim one name"),
        (
            ModuleNotFoundError("No module named 'pydantic'"),
            "problem",
            "memory cannot be looked at: No module named 'pydantic'",
        ),
        (ZeroDivisionError("oh\nno"), "problem", "memory cannot be looked at: ZeroDivisionError: oh"),
    ],
)
def test_what_fails_is_a_finding_beside_those_before(error, sign, telling):
    def look():
        yield Finding("ok", "first")
        raise error

    first, second = guarded(look, "memory")
    assert first.text == "first"
    assert (second.sign, second.text) == (sign, telling)


def test_of_a_question_without_answer_it_says_how_to_see_more():
    (found,) = guarded(lambda: [Answers({("kernels", "cpu"): (False, "died of SIGILL")}).ask("kernels", "cpu")], "cpu")
    assert (found.sign, found.text) == ("problem", "cpu cannot be looked at: died of SIGILL")
    assert "print(answer('kernels', 'cpu'))" in found.do


def test_a_topic_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("gone")

    names = ("software", "machine", "devices", "formats", "attention", "compiler", "counters", "extras", "runtimes")
    for name in (*names, "variables", "neighbours", "self_check"):
        monkeypatch.setattr(doctor, name, fail)
    found = {topic: list(findings) for topic, findings in examine(tmp_path)}
    assert len(found) == 13
    assert found.pop("folders")[0].sign == "ok"
    assert {finding.text for (finding,) in found.values()} == {"this cannot be looked at: OSError: gone"}
    assert not any("self-check" in topic for topic, _ in examine(tmp_path, check=False))


@pytest.mark.parametrize("library", doctor.LIBRARIES)
def test_without_a_library_what_needs_it_is_not_looked_at(library):
    side = Answers({("library", library): (False, "ImportError: libcudart.so.13"), ("devices",): (True, torch())})
    problems = [finding for finding in doctor.software(side) if finding.sign == "problem"]
    assert f"{library} " in problems[0].text
    assert "cannot be imported: ImportError: libcudart.so.13" in problems[0].text
    assert "pip install --upgrade" in problems[0].do
    with pytest.raises(Unknown, match=f"{library} cannot be imported"):
        list(doctor.self_check(side))
    looks = [doctor.devices, doctor.formats, doctor.attention, doctor.compiler, doctor.counters]
    if library == "torch":
        for look in looks[:4]:
            assert [*guarded(lambda look=look: look(side))][
                -1
            ].text == "this is not looked at: torch cannot be imported"
    assert f"RAPL is not looked at: {library} cannot be imported" in [one.text for one in doctor.counters(side)]


# Software


@pytest.fixture
def packages(monkeypatch):
    """Packages by name -> (version, what they require)."""

    def put(**found):
        def installed(name):
            return found.get(name.replace("-", "_"), ("", []))[0]

        def requires(name):
            if name not in found:
                raise PackageNotFoundError(name)
            return found[name][1]

        monkeypatch.setattr(doctor, "installed", installed)
        monkeypatch.setattr(doctor.importlib.metadata, "requires", requires)

    return put


def test_a_torchvision_for_another_torch_is_named(packages):
    packages(
        torch=("2.15.0+cu132", []),
        timm=("1.0", ["torch"]),
        torchvision=("0.26", ["numpy", "torch (==2.11.0)"]),
        densebench=("0.1.0", []),
    )
    told = {finding.text: finding.sign for finding in doctor.software(Answers({}))}
    assert told["torchvision 2.0. It wants torch==2.11.0, and torch 2.15.0+cu132 is here"] == "note"
    assert told["timm 2.0"] == "ok"
    broken = Answers({("library", "torchvision"): (False, "RuntimeError: operator torchvision::nms does not exist")})
    (problem,) = (finding for finding in doctor.software(broken) if finding.sign == "problem")
    assert "torchvision::nms does not exist. It wants torch==2.11.0" in problem.text


WANTED = [
    "timm>=1.0.20",
    "nvidia-ml-py>=12",
    "numpy",
    "ray>=2; extra == 'ray'",
    "ruff; extra == 'test'",
    "pytest>=8; extra == 'test'",
]
WANTED += ["tomli; python_version < '3.11'"]


def test_required_packages_that_are_missing_or_too_old_are_named(packages):
    packages(densebench=("0.1.0", WANTED), timm=("0.9.2", []), numpy=("2.0", []))
    *_, found = doctor.software(Answers({("library", "torchvision"): (True, "1")}))
    assert found.sign == "problem"
    assert found.text == "timm>=1.0.20 is wanted and 0.9.2 is here; nvidia-ml-py>=12 is wanted and none is here"
    assert found.do == "`pip install 'timm>=1.0.20' 'nvidia-ml-py>=12'`"
    packages(densebench=("0.1.0", WANTED), timm=("1.0.20", []), numpy=("2.0", []), nvidia_ml_py=("13.0", []))
    *_, found = doctor.software(Answers({}))
    assert (found.sign, found.text) == ("ok", "the 3 required packages are here")


def test_extras_say_what_they_have_and_lack(packages):
    packages(densebench=("0.1.0", WANTED), ruff=("0.12", []), pytest=("7.0", []))
    ray, test = doctor.extras()
    assert (ray.sign, ray.text) == ("note", "extra 'ray': ray missing or too old")
    assert test.text == "extra 'test': ruff here; pytest missing or too old"
    assert "densebench[test]" in test.do


def test_the_extras_of_this_package_are_those_of_its_metadata():
    assert {"test", "transformers"} <= {finding.facts["extra"] for finding in doctor.extras()}
    assert Requirement("torch>=2.11") in doctor._requirements("densebench")[""]


def test_a_checkout_that_is_not_installed_is_no_mistake(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: "")
    first = next(iter(doctor.software(Answers({}))))
    assert first.sign == "note"
    assert "densebench is not installed" in first.text


# CPUs and memory


def test_fewer_cpus_than_there_are(monkeypatch, environment):
    environment(cores=2, cpu="EPYC")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: None)
    monkeypatch.setattr(doctor, "memory", lambda: (64 * doctor.GIB, 60 * doctor.GIB))
    monkeypatch.setattr(doctor, "memory_limit", lambda: 2**63)
    cpus, memory = doctor.machine()
    assert (cpus.sign, cpus.text) == ("ok", "16 CPUs (EPYC), and this process may use 2 of them")
    assert (memory.sign, memory.text) == ("ok", "memory: 64.0 GiB, 60.0 available")


def test_limits_of_a_container_are_told(monkeypatch, environment):
    environment(cores=16)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 2.5)
    monkeypatch.setattr(doctor, "memory", lambda: (64 * doctor.GIB, 60 * doctor.GIB))
    monkeypatch.setattr(doctor, "memory_limit", lambda: doctor.GIB)
    cpus, memory = doctor.machine()
    assert "a quota of 2.5" in cpus.text
    assert "--threads 2" in cpus.do
    assert memory.text.endswith("and no more than 1.0 for this process's control group")
    assert "oom" in memory.do


def test_memory_that_is_not_told_costs_nothing_else(monkeypatch):
    def refuse():
        raise FileNotFoundError(2, "No such file", "/proc/meminfo")

    monkeypatch.setattr(doctor, "memory", refuse)
    cpus, memory = doctor.machine()
    assert "CPUs" in cpus.text
    assert memory.sign == "problem"
    assert "/proc/meminfo" in memory.text


# Devices


@pytest.mark.parametrize(
    ("smi", "seen", "variables", "sign", "telling"),
    [
        (Smi(), torch(), {}, None, ""),
        (TWO, torch("cuda:0", "cuda:1"), {}, None, ""),
        (
            TWO,
            torch(),
            {},
            "problem",
            "driver 470.57.02 is too old, it runs CUDA up to 11.4 and this torch is built for 13.2",
        ),
        (TWO, torch(cuda=None), {}, "problem", "torch 2.15.0 is built without CUDA"),
        (TWO, torch(), {"CUDA_VISIBLE_DEVICES": ""}, "problem", "CUDA_VISIBLE_DEVICES is empty, which hides them all"),
        (TWO, torch(), {"CUDA_VISIBLE_DEVICES": "-1"}, "problem", "CUDA_VISIBLE_DEVICES is '-1', which hides"),
        (replace(TWO, cuda="13.0"), torch(said="no rights"), {}, "problem", "torch none: no rights"),
        (
            replace(TWO, cuda=""),
            torch(),
            {"CUDA_VISIBLE_DEVICES": "7"},
            "problem",
            "why, and CUDA_VISIBLE_DEVICES is '7'",
        ),
        (TWO, torch("cuda:0"), {"CUDA_VISIBLE_DEVICES": "1"}, "note", "2 GPUs and torch 1 (CUDA_VISIBLE_DEVICES=1)"),
        (Smi(), torch("cuda:0"), {}, "note", "it would take the CPU"),
        (Smi(), torch("xpu:0"), {}, "note", "it would take the CPU"),
        (Smi(), torch(), {"CUDA_VISIBLE_DEVICES": ""}, "note", "there is no GPU that it could show or hide"),
    ],
)
def test_where_torch_and_nvidia_smi_disagree_it_says_why(smi, seen, variables, sign, telling):
    found = list(disagreement(smi, seen, variables))
    assert [finding.sign for finding in found] == ([sign] if sign else [])
    assert all(telling in finding.text for finding in found)
    assert all(finding.do for finding in found if finding.sign == "problem")


def test_a_device_that_nvidia_smi_does_not_list_has_to_be_asked_for():
    assert "--device xpu" in next(disagreement(Smi(), torch("xpu:0"), {})).do


def test_devices_as_both_see_them(monkeypatch):
    monkeypatch.setattr(doctor, "_listed", lambda: ["H100", "H100"])
    monkeypatch.setattr(doctor, "ask_smi", lambda gpus: Smi(True, gpus, "580.1", "13.0"))
    smi, seen = doctor.devices(Answers({("devices",): (True, torch("cuda:0", "cuda:1"))}))
    assert smi.text == "nvidia-smi sees 2 x H100, driver 580.1, for CUDA up to 13.0"
    assert seen.text == "torch sees cuda:0 H100 (80.0 GiB), cuda:1 H100 (80.0 GiB)"
    monkeypatch.setattr(doctor, "ask_smi", lambda gpus: Smi(True, [], error="Driver/library version mismatch"))
    smi, *_ = doctor.devices(Answers({("devices",): (True, torch())}))
    assert smi.sign == "problem"
    assert "mismatch" in smi.text


# What torch can do


def side(question, *answers, devices=()):
    """One that answers for the CPU, and for the first of other devices."""
    places = ["cpu", *devices[:1]]
    known = {(question, place): (True, answer) for place, answer in zip(places, answers, strict=True)}
    return Answers({("devices",): (True, torch(*devices)), **known})


def test_formats_are_compared_with_fp32():
    cuda = {"fp32": 50.0, "tf32": 380.0, "bf16": 700.0, "fp16": 690.0}
    cpu, gpu = doctor.formats(
        side("products", {"fp32": 0.1, "bf16": 0.02, "fp16": 0.01}, cuda, devices=["cuda:0", "cuda:1"])
    )
    assert cpu.sign == "note"
    assert cpu.text == (
        "cpu, one thread: fp32 100 GFLOP/s, bf16 0.2 times that, fp16 0.1 times that; "
        "bf16 and fp16 are slower than fp32 here"
    )
    assert (gpu.sign, gpu.text) == (
        "ok",
        "cuda:0: fp32 50 TFLOP/s, tf32 7.6 times that, bf16 14 times that, fp16 14 times that",
    )
    (found,) = doctor.formats(side("products", {"fp32": 0.1, "bf16": 0.1, "fp16": "not implemented for 'Half'"}))
    assert found.sign == "note"
    assert "fp16 does not work: not implemented" in found.text
    (found,) = doctor.formats(side("products", {"fp32": "no memory"}))
    assert (found.sign, found.text) == ("problem", "cpu: fp32 does not work: no memory")


def test_one_device_that_fails_does_not_hide_the_other():
    answers = side("products", {"fp32": 0.1}, None, devices=["cuda:0"])
    answers.known["products", "cuda:0"] = False, "died of SIGABRT"
    cpu, gpu = doctor.formats(answers)
    assert (cpu.sign, gpu.sign) == ("ok", "problem")
    assert "cuda:0 cannot be looked at: died of SIGABRT" in gpu.text


def test_devices_that_torch_cannot_count_leave_the_cpu():
    answers = Answers({("devices",): (False, "no answer within 120 s"), ("products", "cpu"): (True, {"fp32": 0.1})})
    assert [finding.sign for finding in doctor.formats(answers)] == ["ok"]


ALL = ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("found", "sign", "telling"),
    [
        ({"flash": ["bf16"], "math": ALL}, "ok", "cpu: flash (bf16), math (fp32, bf16, fp16)"),
        ({"flash": [], "cudnn": [], "math": ALL}, "note", "not flash, cudnn; no fused kernel"),
        ({"flash": ALL, "math": []}, "problem", "not math"),
    ],
)
def test_attention_wants_a_fused_kernel_and_needs_math(found, sign, telling):
    (finding,) = doctor.attention(side("kernels", found))
    assert finding.sign == sign
    assert telling in finding.text
    assert bool(finding.do) == (sign == "problem")


def test_a_compiler_that_is_missing_is_named():
    answers = side("compiled", SimpleNamespace(load_s=2.0, compile_s=3.04), None, devices=["cuda:0"])
    answers.known["compiled", "cuda:0"] = False, "RuntimeError: Cannot find a working triton installation"
    cpu, gpu = doctor.compiler(answers)
    assert (cpu.sign, cpu.text) == ("ok", "cpu: torch.compile works, loaded in 2.0 s, a line compiled in 3.0 s")
    assert gpu.sign == "problem"
    assert "triton and a C compiler" in gpu.do
    answers.known["compiled", "cpu"] = False, "InvalidCxxCompiler"
    assert "g++" in next(iter(doctor.compiler(Answers(answers.known)))).do


# Counters


def test_counters_that_the_kernel_keeps_to_itself_are_told():
    assert [finding.sign for finding in of_cpu(Company(0.0, 0.0, (), 2000.0))] == ["ok"] * 3
    found = list(of_cpu(Company()))
    assert [finding.sign for finding in found] == ["note"] * 3
    assert [finding.facts["counter"] for finding in found] == [
        "busy time (/proc/stat)",
        "thermal throttling",
        "CPU clock",
    ]


@pytest.mark.parametrize(("state", "sign"), [("readable", "ok"), ("closed", "note"), ("absent", "note")])
def test_rapl_is_readable_closed_or_absent(state, sign):
    (finding,) = doctor._rapl(Answers({("rapl",): (True, state)}))
    assert finding.sign == sign
    assert ("sudo" in finding.do) == (state == "closed")


def test_rapl_is_looked_for_where_the_measure_looks(monkeypatch, tmp_path):
    from bench.measures import energy

    monkeypatch.setattr(energy, "rapl", lambda: None)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    for name in ("VEC_ISA_OK", "CPP_CACHE_PRECOMPILE_HEADERS", "COMPILE_THREADS"):
        monkeypatch.setenv(f"TORCHINDUCTOR_{name}", "1")  # taken back at the end
    assert doctor.answer("rapl") == "absent"
    (tmp_path / "intel-rapl:0").mkdir()
    assert doctor.answer("rapl") == "closed"
    monkeypatch.setattr(energy, "rapl", object)
    assert doctor.answer("rapl") == "readable"
    assert doctor.answer("library", "json") == json.__version__


def gpu(**known):
    names = ("energy_j", "power_w", "sm_clock_mhz", "throttle_reasons", "compute_processes", "temperature_c")
    return SimpleNamespace(**{name: lambda name=name: known.get(name) for name in names})


def test_what_nvml_tells_of_each_gpu(monkeypatch):
    known = {"energy_j": 1.0, "power_w": 1.0, "sm_clock_mhz": 1.0, "throttle_reasons": (), "temperature_c": 0.0}
    cards = [gpu(**known, compute_processes=0), gpu(**known), None]
    monkeypatch.setattr(nvml, "open_gpu", lambda index: cards[index])
    whole, part, unknown = doctor._nvml(Answers({("devices",): (True, torch("cuda:0", "cuda:1", "cuda:2"))}))
    assert whole.sign == "ok"
    assert "power" in whole.text
    assert part.sign == "note"
    assert part.text.endswith("; processes not told by its driver")
    assert "CUDA_DEVICE_ORDER" in unknown.do
    (none,) = doctor._nvml(Answers({("devices",): (True, torch("xpu:0"))}))
    assert none.sign == "ok"


# Folders


def states(root):
    return sorted(str(path) for path in root.rglob("*"))


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "new" / "cache"))
    (tmp_path / "results").mkdir()
    before = states(tmp_path)
    results, cache, temporary = doctor.folders(tmp_path / "results")
    assert states(tmp_path) == before
    assert [results.sign, cache.sign, temporary.sign] == ["ok"] * 3
    assert results.facts["free"] > 0
    assert "it is made when it is needed" in cache.text
    assert cache.facts["path"] == str(tmp_path / "new" / "cache")


@pytest.mark.parametrize("kind", ["a file", "in a file", "in /proc"])
def test_a_folder_that_cannot_be_written_to_is_a_problem(tmp_path, kind):
    file = tmp_path / "file"
    file.write_text("")
    path = {"a file": file, "in a file": file / "results", "in /proc": Path("/proc/results")}[kind]
    results, *others = doctor.folders(path)
    assert results.sign == "problem"
    assert str(path) in results.text
    assert "--results" in results.do
    assert [finding.facts["folder"] for finding in others] == ["cache", "temporary"]
    assert states(tmp_path) == [str(file)]


def test_little_space_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=doctor.GIB // 2))
    results, *_ = doctor.folders(tmp_path)
    assert results.sign == "note"
    assert "0.5 GiB free" in results.text


# Variables and neighbours


def test_variables_that_change_speed_are_told(environment):
    environment(variables={})
    assert [finding.sign for finding in doctor.variables()] == ["ok"]
    environment(variables={"OMP_NUM_THREADS": "1"})
    (recorded,) = doctor.variables()
    assert recorded.sign == "note"
    assert "OMP_NUM_THREADS=1 changes speed, and is part of the environment" in recorded.text


@pytest.mark.parametrize("busy", [0.1, 1.5, None])
def test_who_is_busy_and_what_that_means(monkeypatch, busy):
    times = iter([{(7, "chrome"): 1.0, (8, "idle"): 5.0}, {(7, "chrome"): 1.75, (8, "idle"): 5.0, (9, "new"): 0.2}])
    clock = iter([0.0, 0.5])
    watch = SimpleNamespace(start=lambda: None, stop=lambda: Company(busy, 0.0, (), None))
    monkeypatch.setattr(company, "watch", lambda device: watch)
    monkeypatch.setattr(doctor, "busy", lambda seconds: busy)
    monkeypatch.setattr(doctor, "cpu_times", lambda: next(times))
    monkeypatch.setattr(doctor, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    (found,) = doctor.neighbours()
    assert found.sign == ("ok" if busy == 0.1 else "note")
    if busy is not None:
        assert "chrome (7) 1.5, new (9) 0.4" in found.text
        assert "idle" not in found.text
        assert ("≈" in found.text) == (busy == 1.5)


# The self-check


def job(measure, head, fields=("backbone",)):
    cell = SimpleNamespace(device="cpu")
    named = SimpleNamespace(name=measure, fields=fields)
    return SimpleNamespace(
        job=SimpleNamespace(measure=named, cell=cell, title=lambda: f"{measure} {head}", cell_title=lambda: head)
    )


def test_of_the_self_check_every_reason_is_told_once():
    names = [
        ("latency", "linear"),
        ("memory", "linear"),
        ("accuracy", "fcos"),
        ("complexity", "fcos"),
        ("memory", "fcos"),
    ]
    plan = SimpleNamespace(planned=[*(job(*name) for name in names), job("roof", "cpu", ())])
    ok, bad = SimpleNamespace(status="ok", reason=""), SimpleNamespace(status="error", reason="no such kernel")
    records = {
        "latency linear": ok,
        "memory linear": ok,
        "complexity fcos": ok,
        "accuracy fcos": bad,
        "memory fcos": bad,
    }
    linear, fcos, *problems = of_check(plan, Summary(records, 1))
    assert (linear.sign, linear.text) == ("ok", "linear, cpu: latency, memory")
    assert fcos.text == "fcos, cpu: complexity"
    assert [finding.text for finding in problems] == [
        "error: no such kernel (accuracy fcos, memory fcos)",
        "there is no record (roof cpu)",
    ]
    assert all(finding.sign == "problem" and finding.do for finding in problems)


# The command


@pytest.mark.parametrize(("sign", "code"), [("ok", 0), ("note", 0), ("problem", 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_only_a_problem_is_a_failure(monkeypatch, capsys, sign, code, as_json):
    found = [("machine", iter([Finding("ok", "a [b]"), Finding(sign, "a [b]", "do it", {"path": "x"})]))]
    monkeypatch.setattr(doctor, "examine", lambda results, check: iter(found))
    words = ["doctor", "--no-check", *(["--json"] if as_json else [])]
    assert (cli.app(words, standalone_mode=False) or 0) == code
    output = capsys.readouterr().out
    if as_json:
        told = json.loads(output)
        assert told["ok"] == (code == 0)
        assert told["findings"][1] == {
            "topic": "machine",
            "sign": sign,
            "text": "a [b]",
            "do": "do it",
            "facts": {"path": "x"},
        }
    else:
        assert output.splitlines()[0] == "machine"
        assert "a [b]\n           -> do it" in output
        assert output.splitlines()[-1] == ("1 problem" if code else "no problem found")


@pytest.fixture
def short():
    """A folder with a short name: sockets of processes lie in it, and their names end at 107 characters."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_the_real_command_on_this_machine(tmp_path, short):
    folders = {"TMPDIR": short, "DENSEBENCH_CACHE": tmp_path / "cache", "HOME": tmp_path / "home"}
    env = {**os.environ, **{name: str(path) for name, path in folders.items()}, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "bench", "doctor", "--json", "--results", str(tmp_path / "results")]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["ok"] else 1)
    topics = {}
    for finding in told["findings"]:
        topics.setdefault(finding["topic"], []).append(finding)
    assert len(topics) == 13
    assert not [finding for finding in told["findings"] if "cannot be looked at" in finding["text"]]
    *cells, whole = topics["self-check, one tiny cell of each task"]
    assert [finding["sign"] for finding in [*cells, whole]] == ["ok"] * 3, cells
    assert {name for finding in cells for name in finding["facts"]["measures"]} == {
        "complexity",
        "latency",
        "memory",
        "accuracy",
    }
    assert whole["facts"]["records"] == 9, "two cells of four measures, and the limits of the machine"
    # torch makes an empty folder when timm is imported
    left = [path for folder in (tmp_path, short) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in left if path != tmp_path / "cache" / "stated.json"] == [], "that one every verb keeps"
