"""``densebench doctor``: what the suite sees of this machine, and whether it works here.

Every look is guarded: one that fails is a finding of its own, and the others go on. What needs torch is asked of
another process, which may die or hang without taking this one with it. Every library but the command line's own is
imported by the look that uses it, since that it cannot be imported is a finding, too.
"""

import errno
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from bench.cache import cache_folder
from bench.devices import gpus, hidden
from bench.errors import UserError
from bench.launchers._aside import Aside, Unanswered, in_a_line
from bench.plan import cards
from bench.plan.environment import Environment, busy, describe, installed
from bench.plan.machine import Smi, ask_smi, cpu_quota, cpu_times, cpus, memory, memory_limit

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from bench.model.probe import Torch
    from bench.run import Plan, Summary
    from bench.timing.company import Company

Sign = Literal["ok", "note", "problem"]
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_NO_BREAK = "\N{NO-BREAK SPACE}"
_INDENT = 11
"""Columns before a finding's text."""

GIB = 2**30
LITTLE_MEMORY, LITTLE_SPACE = 2 * GIB, GIB
"""Bytes: a training in pico size takes one of them; the cache of `scenes` and a run's records a tenth of the other."""
LIBRARIES = ("torch", "torchvision", "timm")
"""Which have to fit together."""
PATIENCE_S = 120.0
"""After which a question to the process that has torch is given up, and a measurement of the self-check."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    sign: "ok"; "note": good to know; "problem": something does not work, or will not. text: a sentence or two.
    do: what to do about it. facts: the same for machines.
    """

    sign: Sign
    text: str
    do: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def render(self, width: int) -> Text:
        """Wrapped between words to so many columns, and never within a `command`; what is longer has its own line."""
        wrap = partial(textwrap.wrap, width=max(40, width) - _INDENT, break_long_words=False, break_on_hyphens=False)
        lines = wrap(_unbroken(self.text))
        if self.do:
            lines += wrap(_unbroken(self.do), initial_indent="-> ", subsequent_indent="   ")
        text = Text(f"  {self.sign:<{_INDENT - 2}}", style=_STYLES[self.sign])
        return text.append(("\n" + " " * _INDENT).join(lines).replace(_NO_BREAK, " "), style="default")

    def as_json(self) -> dict[str, Any]:
        """One object of ``--json``."""
        return {"sign": self.sign, "text": self.text, "do": self.do, "facts": dict(self.facts)}


def _unbroken(text: str) -> str:
    return re.sub("`[^`]*`", lambda command: command[0].replace(" ", _NO_BREAK), text)


@cache
def _environment() -> Environment:
    """Described once: git and nvidia-smi take their time."""
    return describe()


def _listed() -> list[str]:
    """The GPUs that nvidia-smi lists, hidden ones and those of other kinds too."""
    return [card.model for card in cards.look().there]


class Unknown(Exception):
    """Something cannot be looked at, because of what another finding says."""


def examine(results: Path, *, check: bool = True) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Topic after topic with its findings, each made when it is asked for.

    Args:
        results: folder of results that a run would write to.
        check: whether to measure a tiny cell of each task at last.
    """
    with closing(Torchside()) as side:
        looks: dict[str, Callable[[], Iterable[Finding]]] = {
            "software": partial(software, side),
            "machine": machine,
            "devices": partial(devices, side),
            "number formats": partial(formats, side),
            "attention kernels": partial(attention, side),
            "compiler": partial(compiler, side),
            "counters": partial(counters, side),
            "extras": extras,
            "runtimes": runtimes,
            "folders": partial(folders, results),
            "variables": variables,
            "who else is busy": neighbours,
        }
        if check:
            looks["self-check, one tiny cell of each task"] = partial(self_check, side)
        for topic, look in looks.items():
            yield topic, guarded(look)


def guarded(look: Callable[[], Iterable[Finding]], what: str = "this") -> Iterator[Finding]:
    """The findings of a look, and one more if it fails: that ``what`` cannot be looked at."""
    try:
        yield from look()
    except Unknown as error:
        yield Finding("note", f"{what} is not looked at: {error}")
    except Unanswered as error:
        asked = f"from bench.doctor import answer; print(answer{error.question})"
        more = f'see more by `python -X faulthandler -c "{asked}"`'
        yield Finding("problem", f"{what} cannot be looked at: {error}", more)
    except UserError as error:
        yield Finding("problem", str(error))
    except ImportError as error:
        yield Finding("problem", f"{what} cannot be looked at: {error}", "install what is missing")
    except Exception as error:  # noqa: BLE001 - one look that fails must not cost the others
        yield Finding("problem", f"{what} cannot be looked at: {in_a_line(error)}", "report this line, please")


def answer(question: str, *arguments: str) -> Any:
    """What `Torchside` asks: "library", "rapl", or a function of `bench.model.probe`."""
    # torch.compile quickly, and without leaving anything behind: no trial of the CPU's instructions in another process,
    # no precompiled header of 150 MB, no helpers. torch reads these when it is imported.
    os.environ |= {
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    if question == "library":
        module = importlib.import_module(*arguments)
        return str(getattr(module, "__version__", ""))
    if question == "rapl":
        from bench.measures import energy

        if energy.rapl() is not None:
            return "readable"
        return "closed" if any(energy.POWERCAP.glob("intel-rapl:*")) else "absent"
    from bench.model import probe

    return getattr(probe, question)(*arguments)


class Torchside(Aside):
    """The process that has torch."""

    def __init__(self, respond: Callable[..., Any] = answer, patience_s: float = PATIENCE_S) -> None:
        super().__init__(respond, patience_s)

    def torch(self) -> "Torch":
        """How torch sees the machine.

        Raises:
            Unknown: torch cannot be imported.
            Unanswered: torch does not answer.
        """
        self.require("torch")
        return self.ask("devices")

    def require(self, *libraries: str) -> None:
        """Go on only with these.

        Raises:
            Unknown: one of them cannot be imported.
        """
        for library in libraries:
            try:
                self.ask("library", library)
            except Unanswered as error:
                raise Unknown(f"{library} cannot be imported") from error

    def places(self) -> list[str]:
        """The CPU, and the first of the other devices; devices that torch has trouble to see are none.

        Raises:
            Unknown: torch cannot be imported.
        """
        try:
            return ["cpu", *(device.name for device in self.torch().devices[:1])]
        except Unanswered:
            return ["cpu"]


def software(side: Torchside) -> Iterator[Finding]:
    """Versions; whether torch and what is built on it can be imported; whether what is required is here."""
    from bench.catalogue import ROOT

    python = platform.python_version()
    version = installed("densebench")
    yield Finding(
        "ok" if version else "note",
        f"densebench {version or 'is not installed, it lies'} in {ROOT}, Python {python}",
        "" if version else f"`pip install -e {ROOT}`",
        {"densebench": version, "python": python, "folder": str(ROOT)},
    )
    for name in LIBRARIES:
        here = installed(name)
        try:
            version = side.ask("library", name)
        except UserError as error:
            yield Finding(
                "problem",
                f"{name} {here or '(not installed)'} cannot be imported: {error}{_mismatch(name)}",
                "install releases that belong together: `pip install --upgrade torch torchvision timm`",
                {"library": name, "installed": here, "error": str(error)},
            )
        else:
            wrong = _mismatch(name)
            yield Finding("note" if wrong else "ok", f"{name} {version}{wrong}", "", {name: version})
    yield from guarded(_required, "what is required")


def _mismatch(name: str) -> str:
    """Which torch a library wants, if another one is installed."""
    torch = installed("torch")
    for requirement in _requirements(name).get("", []):
        if requirement.name == "torch" and torch and not requirement.specifier.contains(torch, prereleases=True):
            return f". It wants torch{requirement.specifier}, and torch {torch} is here"
    return ""


def _required() -> Iterator[Finding]:
    required = _requirements("densebench").get("", [])
    wrong = {str(one): installed(one.name) for one in required if not _satisfied(one)}
    here = [f"{version} is here" if version else "none is here" for version in wrong.values()]
    text = "; ".join(f"{wanted} is wanted and {what}" for wanted, what in zip(wrong, here, strict=True))
    yield Finding(
        "problem" if wrong else "ok",
        text or f"the {len(required)} required packages are here",
        "`pip install " + " ".join(f"'{wanted}'" for wanted in wrong) + "`" if wrong else "",
        {"missing": wrong},
    )


def extras() -> Iterator[Finding]:
    """Optional groups of packages, and whether they are here."""
    groups = _requirements("densebench")
    for extra, wanted in sorted(groups.items()):
        if extra:
            missing = [one.name for one in wanted if not _satisfied(one)]
            here = [one.name for one in wanted if one.name not in missing]
            parts = {"here": here, "missing or too old": missing}
            text = "; ".join(f"{', '.join(names)} {state}" for state, names in parts.items() if names)
            yield Finding(
                "note" if missing else "ok",
                f"extra '{extra}': {text}",
                f"if you want it: `pip install 'densebench[{extra}]'`" if missing else "",
                {"extra": extra, "packages": [one.name for one in wanted], "missing": missing},
            )


def runtimes() -> Iterator[Finding]:
    """What models can be exported to, and what of it is installed."""
    from bench import catalogue
    from bench.plan import runtimes as known

    for name, entry in catalogue.entries("runtimes").items():
        lost = known.missing(name)
        facts = {"runtime": name, "missing": lost, "devices": entry.facts["devices"]}
        text = f"{name}: {', '.join(lost)} not installed" if lost else f"{name}: {known.versions(name)}"
        do = f"if you want it: `{known.remedy(name)}`" if lost else ""
        yield Finding("note" if lost else "ok", f"{text} ({', '.join(entry.facts['devices'])})", do, facts)


def _requirements(package: str) -> dict[str, list["Requirement"]]:
    """Extra -> what it needs on this machine; "": what is always needed. Empty for a package that is not here."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([^'\"]+)", line)
        name = extra[1] if extra else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": name}):
            requirement.marker = None  # said by now
            found.setdefault(name, []).append(requirement)
    return found


def _satisfied(requirement: "Requirement") -> bool:
    return bool(version := installed(requirement.name)) and requirement.specifier.contains(version, prereleases=True)


def machine() -> Iterator[Finding]:
    """CPUs and memory: of the machine, and for this process."""
    yield from guarded(_cpus, "the CPU")
    yield from guarded(_memory, "memory")


def _cpus() -> Iterator[Finding]:
    environment = _environment()
    mine, there = environment.cores, os.cpu_count() or environment.cores
    facts = {"cpu": environment.cpu, "usable": mine, "cpus": there, "quota": cpu_quota()}
    text = f"{there} CPUs ({environment.cpu}), and this process may use {'all' if mine == there else mine} of them"
    if facts["quota"] is not None and facts["quota"] < mine:
        yield Finding(
            "note",
            f"{text}; its control group has a quota of {facts['quota']:g}, beyond which threads are stopped",
            f"run with --threads {max(1, int(facts['quota']))}, or allow it whole CPUs",
            facts,
        )
    else:
        yield Finding("ok", text, "", facts)


def _memory() -> Iterator[Finding]:
    total, available = memory()
    limit = memory_limit()
    facts = {"total": total, "available": available, "limit": limit if limit is not None and limit < total else None}
    said = f"memory: {total / GIB:.1f} GiB, {available / GIB:.1f} available"
    if facts["limit"] is not None:
        said += f", and no more than {facts['limit'] / GIB:.1f} for this process's control group"
    little = min(available, facts["limit"] or available) < LITTLE_MEMORY
    yield Finding(
        "note" if little or facts["limit"] is not None else "ok",
        said,
        "end what you do not need: cells that run out of memory become rows of status oom" if little else "",
        facts,
    )


def devices(side: Torchside) -> Iterator[Finding]:
    """GPUs as nvidia-smi sees them, devices as torch does, and why that is not the same."""
    smi = ask_smi(_listed())
    yield from _of_smi(smi)
    seen = side.torch()
    facts = {"devices": [vars(device) for device in seen.devices], "cuda": seen.cuda, "hip": seen.hip}
    names = [f"{one.name} {one.model}" + (f" ({one.memory_gib} GiB)" if one.memory_gib else "") for one in seen.devices]
    yield Finding("ok", f"torch sees {', '.join(names) or 'no device beside the CPU'}", "", facts)
    yield from disagreement(smi, seen, os.environ)


def _of_smi(smi: Smi) -> Iterator[Finding]:
    facts = {"gpus": list(smi.gpus), "driver": smi.driver, "cuda": smi.cuda, "error": smi.error}
    if not smi.here:
        yield Finding("ok", "nvidia-smi is not here, so that no NVIDIA GPU is expected", "", facts)
    elif not smi.gpus:
        yield Finding(
            "problem",
            f"nvidia-smi is here and lists no GPU: {smi.error or 'it says nothing'}",
            "if there is one, mend its driver (a new kernel or a half-done update wants a restart)",
            facts,
        )
    else:
        many = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(smi.gpus).items())
        text = f"nvidia-smi sees {many}, driver {smi.driver or 'unknown'}"
        yield Finding("ok", text + (f", for CUDA up to {smi.cuda}" if smi.cuda else ""), "", facts)


def disagreement(smi: Smi, seen: "Torch", variables: Mapping[str, str]) -> Iterator[Finding]:
    """Why torch computes on other GPUs than nvidia-smi lists: nothing where they agree.

    `densebench run` goes by nvidia-smi, and asks torch only whether it can use what that lists.
    """
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    count = sum(device.name.startswith("cuda") for device in seen.devices)
    if smi.gpus and not count:
        why, what = hidden(smi, seen, visible)
        yield Finding(
            "problem",
            f"nvidia-smi sees {gpus(len(smi.gpus))} and torch none: {why}",
            f"{what}; until then, run with `--device cpu`",
        )
    elif smi.gpus and count != len(smi.gpus):
        named = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        yield Finding("note", f"nvidia-smi sees {gpus(len(smi.gpus))} and torch {count}{named}")
    elif seen.devices and not smi.gpus:
        kind = seen.devices[0].name.partition(":")[0]
        yield Finding(
            "note",
            f"torch sees {seen.devices[0].name} and nvidia-smi no GPU, and `densebench run` goes by nvidia-smi: it "
            "would take the CPU, and name this machine by it",
            f"run with `--device {kind} --machine NAME`"
            + (", or put nvidia-smi on the PATH" if kind == "cuda" else ""),
        )
    elif visible is not None and not smi.gpus:
        yield Finding("note", f"CUDA_VISIBLE_DEVICES is '{visible}'; there is no GPU that it could show or hide")


def formats(side: Torchside) -> Iterator[Finding]:
    """How fast each dtype multiplies, measured."""
    for place in side.places():
        yield from guarded(partial(_formats, side, place), place)


def _formats(side: Torchside, place: str) -> Iterator[Finding]:
    found: dict[str, float | str] = side.ask("products", place)
    facts = {"device": place, "tflops": found}
    base = found["fp32"]
    if isinstance(base, str):
        yield Finding("problem", f"{place}: fp32 does not work: {base}", "mend what torch complains about", facts)
        return
    ratios = {name: speed / base for name, speed in found.items() if name != "fp32" and not isinstance(speed, str)}
    text = "cpu, one thread" if place == "cpu" else place
    text += f": fp32 {base:.3g} TFLOP/s" if base >= 1 else f": fp32 {base * 1e3:.3g} GFLOP/s"
    text += "".join(f", {name} {ratio:.2g} times that" for name, ratio in ratios.items())
    text += "".join(f"; {name} does not work: {why}" for name, why in found.items() if isinstance(why, str))
    slow = [name for name, ratio in ratios.items() if ratio < 0.8]
    if slow:
        text += f"; {' and '.join(slow)} {'is' if len(slow) == 1 else 'are'} slower than fp32 here"
    yield Finding("note" if slow or len(ratios) + 1 < len(found) else "ok", text, "", facts)


def attention(side: Torchside) -> Iterator[Finding]:
    """Which kernels of scaled dot product attention work on a tiny input."""
    for place in side.places():
        yield from guarded(partial(_attention, side, place), place)


def _attention(side: Torchside, place: str) -> Iterator[Finding]:
    found: dict[str, list[str]] = side.ask("kernels", place)
    working = [f"{name} ({', '.join(dtypes)})" for name, dtypes in found.items() if dtypes]
    none = [name for name, dtypes in found.items() if not dtypes]
    text = f"{place}: {', '.join(working) or 'none'}" + (f"; not {', '.join(none)}" if none else "")
    fused = any(dtypes for name, dtypes in found.items() if name != "math")
    sign: Sign = "ok" if fused else "note"
    if not fused:
        text += "; no fused kernel, so that plain attention needs memory for every pair of tokens"
    if not found["math"]:
        sign = "problem"
    do = "" if found["math"] else "attention works nowhere without it: try another version of torch"
    yield Finding(sign, text, do, {"device": place, "kernels": found})


def compiler(side: Torchside) -> Iterator[Finding]:
    """Whether torch.compile compiles a function of one line, and how long that takes."""
    for place in side.places():
        try:
            took = side.ask("compiled", place)
        except UserError as error:
            needs = "a C++ compiler (g++, or the one that CXX names)" if place == "cpu" else "triton and a C compiler"
            yield Finding(
                "problem",
                f"{place}: torch.compile does not work: {error}",
                f"install {needs}, or run without --compile; other rows do not need it",
                {"device": place, "error": str(error)},
            )
        else:
            times = f"loaded in {took.load_s:.1f} s, a line compiled in {took.compile_s:.1f} s"
            yield Finding("ok", f"{place}: torch.compile works, {times}", "", {"device": place, **vars(took)})


def counters(side: Torchside) -> Iterator[Finding]:
    """What of the machine can be read while something is measured."""
    from bench.timing.company import SHORTEST_S, watch

    eye = watch("cpu")
    eye.start()
    time.sleep(2 * SHORTEST_S)
    yield from of_cpu(eye.stop())
    yield from guarded(partial(_rapl, side), "RAPL")
    yield from guarded(partial(_nvml, side), "NVML")


def of_cpu(company: "Company") -> Iterator[Finding]:
    """Which of the kernel's counters can be read."""
    kept = {
        "busy time (/proc/stat)": (company.others_cores, "whether others disturbed a round"),
        "thermal throttling": (company.throttled, "whether heat slowed a round"),
        "CPU clock": (company.clock_mhz, "at which MHz a round ran"),
    }
    for name, (value, means) in kept.items():
        lost = f"{name}: not told by this kernel (usual in virtual machines), so that {means} stays unknown"
        facts = {"counter": name, "readable": value is not None}
        yield Finding("note" if value is None else "ok", lost if value is None else f"{name}: {means}", "", facts)


def _rapl(side: Torchside) -> Iterator[Finding]:
    side.require(*LIBRARIES)
    state = side.ask("rapl")
    text = {
        "readable": "RAPL: the energy of CPU packages",
        "closed": "RAPL: only the superuser may read the energy of CPU packages; the columns of `energy` stay empty",
        "absent": "RAPL: no counter of CPU energy here (usual in virtual machines); the columns of `energy` stay empty",
    }[state]
    do = "`sudo chmod a+r /sys/class/powercap/*/energy_uj`" if state == "closed" else ""
    yield Finding("ok" if state == "readable" else "note", text, do, {"rapl": state})


def _nvml(side: Torchside) -> Iterator[Finding]:
    from bench.timing.nvml import open_gpu

    indices = [int(name.partition(":")[2]) for one in side.torch().devices if (name := one.name).startswith("cuda")]
    if not indices:
        yield Finding("ok", "NVML: there is no NVIDIA GPU to ask about")
    for index in indices:
        gpu = open_gpu(index)
        if gpu is None:
            yield Finding(
                "note",
                f"NVML does not say which of its GPUs cuda:{index} is: its energy, clock and slowdowns stay unknown",
                "set CUDA_DEVICE_ORDER=PCI_BUS_ID; of a sliced GPU, name the slice in CUDA_VISIBLE_DEVICES",
            )
            continue
        kept = {
            "energy": gpu.energy_j(),
            "power": gpu.power_w(),
            "clock": gpu.sm_clock_mhz(),
            "slowdowns": gpu.throttle_reasons(),
            "processes": gpu.compute_processes(),
            "temperature": gpu.temperature_c(),
        }
        known, lost = ([name for name, value in kept.items() if (value is None) is none] for none in (False, True))
        text = f"NVML, cuda:{index}: {', '.join(known) or 'nothing'}"
        text += f"; {', '.join(lost)} not told by its driver" if lost else ""
        yield Finding("note" if lost else "ok", text, "", {"gpu": index, **kept})


def folders(results: Path) -> Iterator[Finding]:
    """Whether the folders that a run writes to can be written to, and how much room there is."""
    yield from guarded(partial(_folder, "results", results, "name another with --results"), "the results folder")
    kept = partial(_folder, "cache", cache_folder(), "name another with DENSEBENCH_CACHE")
    yield from guarded(kept, "the cache folder")
    # tempfile tries several folders and fails if it can write to none of them.
    yield from guarded(lambda: _folder("temporary", Path(tempfile.gettempdir()), "name another with TMPDIR"), "TMPDIR")


def _folder(kind: str, path: Path, do: str) -> Iterator[Finding]:
    place = path.absolute()
    facts: dict[str, Any] = {"folder": kind, "path": str(place)}
    text = f"{kind} folder: {path}"
    try:
        while not os.path.lexists(place):
            place = place.parent
        if place.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file and no folder")
        # Permissions do not say it: a file system may be read-only, and root may do what others may not.
        with tempfile.TemporaryDirectory(prefix=".densebench-", dir=place) as folder:
            (Path(folder) / "trial").write_bytes(bytes(4096))
        free = shutil.disk_usage(place).free
    except OSError as error:
        what = "written to" if place == path.absolute() else f"made in {place}"
        facts |= {"writable": False, "error": error.strerror}
        yield Finding("problem", f"{text} cannot be {what} ({error.strerror})", f"make it writable, or {do}", facts)
        return
    facts |= {"writable": True, "free": free}
    text += f", {free / GIB:.1f} GiB free" + ("" if place == path.absolute() else "; it is made when it is needed")
    little = free < LITTLE_SPACE
    yield Finding("note" if little else "ok", text, f"make room, or {do}" if little else "", facts)


def variables() -> Iterator[Finding]:
    """Variables of the shell that change speed."""
    recorded = _environment().variables
    means = "part of the environment: records made with and without are not compared"
    for name, value in recorded.items():
        yield Finding("note", f"{name}={value} changes speed, and is {means}", f"unset {name}, unless you mean it")
    if not recorded:
        yield Finding("ok", "none that changes speed is set")


def neighbours() -> Iterator[Finding]:
    """Who else uses the CPUs now, and what a round that is timed now would be."""
    from bench.timing.company import disturbed, watch

    eye, before = watch("cpu"), cpu_times()
    start = time.perf_counter()
    eye.start()
    cores = busy(0.5)
    company = eye.stop()
    seconds = time.perf_counter() - start
    after = cpu_times()
    shares = Counter({who: (spent - before.get(who, 0.0)) / seconds for who, spent in after.items()})
    names = [f"{name} ({pid}) {share:.1f}" for (pid, name), share in shares.most_common(3) if share >= 0.1]
    mine = len(cpus())
    why = disturbed(company, mine, mine, "cpu")
    facts = {"busy_cores": cores, "others_cores": company.others_cores, "steal_cores": company.steal_cores}
    who = f"; most of it by {', '.join(names)}" if names else ""
    if cores is None:
        yield Finding("note", "the kernel does not tell who is busy; look for yourself before you time anything")
    elif why:
        yield Finding(
            "note",
            f"{cores:.1f} cores are busy{who}. Figures taken now would be marked as taken in company (≈): {why}",
            "wait until it is quiet before you time anything",
            facts,
        )
    else:
        yield Finding("ok", f"{cores:.1f} cores are busy{who}; rounds would count", "", facts)


def self_check(side: Torchside) -> Iterator[Finding]:
    """Measure a tiny cell of each task in a temporary folder, by the same plan, launcher and store as a run."""
    from bench import run
    from bench.launchers.contract import Settings
    from bench.plan import matrix as matrices
    from bench.plan.dataset import Roots
    from bench.plan.measure import Precision
    from bench.signals import Ended
    from bench.store.store import Store

    side.require(*LIBRARIES)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="densebench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        store = Store(folder / "results")
        plan = run.plan(matrices.load("smoke"), _environment(), store, Roots([]))
        settings = Settings(folder / "cache", folder / "pictures", PATIENCE_S, precision=Precision(0.1, 0.1, "allow"))
        summary = run.run(plan, store, settings, launcher="local", show=lambda _: None, say=lambda _: None)
        if summary.interrupted:
            raise Ended(summary.interrupted)
        kept = sum(1 for _ in store.records())
    yield from of_check(plan, summary)
    seconds = time.monotonic() - start
    missing = len(plan.planned) - kept
    yield Finding(
        "problem" if missing else "ok",
        f"{kept} of {len(plan.planned)} measurements were planned, run and stored in {seconds:.0f} s",
        "see what `densebench run --matrix smoke --results FOLDER` stores" if missing else "",
        {"records": kept, "planned": len(plan.planned), "seconds": round(seconds, 1)},
    )


def of_check(plan: "Plan", summary: "Summary") -> Iterator[Finding]:
    """A line for each cell with the measures that have a number, and one for each reason that others have none."""
    cells: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for planned in plan.planned:
        job = planned.job
        record = summary.records.get(job.title())
        if record is None or record.status != "ok":
            reason = "there is no record" if record is None else f"{record.status}: {record.reason}"
            failed.setdefault(reason, []).append(job.title())
        elif "backbone" in job.measure.fields:
            cells.setdefault(f"{job.cell_title()}, {job.cell.device}", []).append(job.measure.name)
    for title, names in cells.items():
        yield Finding("ok", f"{title}: {', '.join(names)}", "", {"cell": title, "measures": names})
    for reason, titles in failed.items():
        yield Finding(
            "problem",
            f"{reason} ({', '.join(titles)})",
            "see the records of `densebench run --matrix smoke --results FOLDER`",
            {"reason": reason, "measurements": titles},
        )
