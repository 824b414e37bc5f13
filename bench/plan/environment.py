"""The machine and the software that a number belongs to, described without importing torch."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.catalogue import ROOT
from bench.errors import UserError
from bench.plan.variables import speed

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "segmentation-models-pytorch", "faster-coco-eval")
# What the kernel calls the instructions that make a narrow type fast; a dtype works without them, only slowly.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_FP16_FLAGS = ("amx_fp16", "avx512_fp16", "fphp")


@dataclass(frozen=True)
class Environment:
    """Where measurements were made.

    Attributes:
        id: the first 12 hexadecimal digits of the SHA-256 of everything below but `comparable`, as JSON with sorted
            keys; `driver` and `gpu_memory_gib` are left out where they are empty.
        comparable: the same without the git state; only records that share it are ever put in one table.
        cpu: model, as the kernel names it.
        cores: CPUs that the process may use.
        memory_gib: physical memory in GiB.
        gpus: models of NVIDIA GPUs, as nvidia-smi names them.
        dtypes: number formats that the CPU has instructions for.
        variables: environment variables that change speed, where they are set; of paths in them the last part.
        system: operating system and architecture.
        python: version.
        packages: versions of the libraries that models and metrics come from.
        git: commit of densebench's own tree, results apart, with "+changes" where files were edited; or "unknown".
        driver: version of the NVIDIA driver; empty where there is no GPU.
        gpu_memory_gib: memory of each GPU in GiB.
    """

    id: str
    comparable: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: list[str]
    dtypes: list[str]
    variables: dict[str, str]
    system: str
    python: str
    packages: dict[str, str]
    git: str
    driver: str = ""
    gpu_memory_gib: list[float] = field(default_factory=list)

    def title(self) -> str:
        """One line for a table's heading."""
        device = ", ".join(self.gpus) or f"{self.cpu}, {self.cores} cores"
        versions = " ".join(f"{name} {self.packages[name]}" for name in ("torch", "timm") if name in self.packages)
        variables = "".join(f", {name}={_short(value)}" for name, value in sorted(self.variables.items()))
        return f"{device}, {self.memory_gib:.0f} GiB, {versions}{variables}"

    def slug(self) -> str:
        """Name of this machine's folder under ``results/``."""
        name = self.gpus[0] if self.gpus else f"{self.cpu} {self.cores} cores"
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe() -> Environment:
    """This machine, now. The git state is that of densebench's own tree, results apart."""
    flags, model = _cpu()
    facts: dict[str, Any] = {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "dtypes": ["fp32", *_fast("bf16", flags, _BF16_FLAGS), *_fast("fp16", flags, _FP16_FLAGS)],
        "variables": speed(os.environ),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := installed(name))},
    }
    if known := _gpu_facts():  # left out where there is none, so that a CPU's digest is what it always was
        facts |= known
    git = _git()
    name, comparable = _digests(facts, git)
    return Environment(id=name, comparable=comparable, **facts, git=git)


def consistent(environment: Environment) -> bool:
    """Whether its digests are those of what it says."""
    facts = {name: value for name, value in asdict(environment).items() if name not in ("id", "comparable", "git")}
    if not environment.driver and not environment.gpu_memory_gib:
        facts = {name: value for name, value in facts.items() if name not in ("driver", "gpu_memory_gib")}
    return _digests(facts, environment.git) == (environment.id, environment.comparable)


def as_json(environment: Environment) -> dict[str, object]:
    """For ``environments.jsonl``."""
    return asdict(environment)


def amount(variable: str, usual: float, of: str) -> float:
    """The number, 0 or more, that an environment variable holds; ``usual`` where it is not set.

    Raises:
        UserError: it holds something else; says that it is ``of``.
    """
    text = os.environ.get(variable, str(usual))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise UserError(f"{variable} is {of}, 0 or more; {text!r} came")
    return number


def busy(seconds: float = 0.25) -> float | None:
    """Cores that are at work just now, counted over so many seconds; None where the system does not tell."""

    def jiffies() -> tuple[int, int]:
        numbers = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:]]
        return sum(numbers[:8]), numbers[3] + numbers[4]

    try:
        total, idle = jiffies()
        time.sleep(seconds)
        total_after, idle_after = jiffies()
    except (OSError, ValueError, IndexError):
        return None
    share = 1 - (idle_after - idle) / max(1, total_after - total)
    return share * (os.cpu_count() or 1)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _digests(facts: dict[str, Any], git: str) -> tuple[str, str]:
    """`Environment.id` and `Environment.comparable`."""
    return _digest({**facts, "git": git}), _digest(facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _cpu() -> tuple[set[str], str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set(), platform.processor() or platform.machine()
    lines = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    return set((lines.get("flags") or lines.get("Features") or "").split()), lines.get("model name", platform.machine())


def _fast(dtype: str, flags: set[str], wanted: tuple[str, ...]) -> list[str]:
    return [dtype] if flags & set(wanted) else []


def _gpus() -> list[str]:
    return [line.strip() for line in _ask_gpus("name")]


def _gpu_facts() -> dict[str, Any]:
    """Driver and memory of the GPUs; empty without one."""
    found = [line.split(",") for line in _ask_gpus("driver_version,memory.total")]
    sizes = [size.strip() for _, size in found]
    if not found or not all(size.isdigit() for size in sizes):
        return {}
    return {"driver": found[0][0].strip(), "gpu_memory_gib": [round(int(size) / 1024, 1) for size in sizes]}


def _ask_gpus(what: str) -> list[str]:
    """A line of nvidia-smi's answer for each GPU; none without one."""
    if not (tool := shutil.which("nvidia-smi")):
        return []
    asked = [tool, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in answer.stdout.splitlines() if line.strip()]


def installed(package: str) -> str:
    """Version of a package as its metadata has it; empty for one that is not here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git() -> str:
    def ask(*words: str) -> str:
        answer = subprocess.run(
            ["git", "-C", str(ROOT), *words],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return answer.stdout.strip()

    try:
        # Results are what a run writes: they must not make the next run's state look changed.
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return ask("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
