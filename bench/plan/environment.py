"""The machine and the software that a number belongs to, described without importing torch."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.catalogue import ROOT
from bench.errors import UserError, one_line
from bench.plan import cards
from bench.plan.machine import cpus
from bench.plan.variables import speed

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "segmentation-models-pytorch", "faster-coco-eval")
# What the kernel calls the instructions that make a narrow type fast; a dtype works without them, only slowly.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_ON_GPUS = {
    "triton": ("triton", "pytorch-triton"),
    "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu11"),
}
"""What computes on GPUs, by the names of its packages; where torch brings its own, the version is not told."""
_FP16_FLAGS = ("amx_fp16", "avx512_fp16", "fphp")


@dataclass(frozen=True)
class Environment:
    """Where measurements were made.

    Attributes:
        id: the first 12 hexadecimal digits of the SHA-256 of everything below but `comparable`, as JSON with sorted
            keys; `driver` and `gpu_memory_gib` are left out where both are empty, `gpu_power_w` where it is.
        comparable: the same without the git state; only records that share it are ever put in one table.
        cpu: model, as the kernel names it.
        cores: CPUs that the process may use.
        memory_gib: physical memory in GiB.
        gpus: model of the NVIDIA GPU that cells run on, as nvidia-smi names it, of a slice with its MIG profile; where
            there are several alike it stands here once, for a cell has one of them.
        dtypes: number formats that the CPU has instructions for.
        variables: environment variables that change speed, where they are set; of paths in them the last part.
        system: operating system and architecture.
        python: version.
        packages: versions of the libraries that models and metrics come from; where there is a GPU, also of cuda (that
            torch was built for), cudnn and triton.
        git: commit of densebench's own tree, results apart, with "+changes" where files were edited; or "unknown".
        driver: version of the NVIDIA driver; empty where there is no GPU.
        gpu_memory_gib: memory of the GPU in GiB, of a slice what its profile says.
        gpu_power_w: power limit of the GPU in watts.
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
    gpu_power_w: list[float] = field(default_factory=list)

    def title(self) -> str:
        """One line for a table's heading, whatever a processor is called."""
        device = ", ".join(self.gpus) or f"{self.cpu}, {self.cores} cores"
        versions = " ".join(f"{name} {self.packages[name]}" for name in ("torch", "timm") if name in self.packages)
        variables = "".join(f", {name}={_short(value)}" for name, value in sorted(self.variables.items()))
        return one_line(f"{device}, {self.memory_gib:.0f} GiB, {versions}{variables}")

    def slug(self) -> str:
        """Name of this machine's folder under ``results/``."""
        name = self.gpus[0] if self.gpus else f"{self.cpu} {self.cores} cores"
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe(box: cards.Box | None = None) -> Environment:
    """This machine, now. The git state is that of densebench's own tree, results apart.

    Args:
        box: its cards, where they have been looked at already.
    """
    flags, model = _cpu()
    facts: dict[str, Any] = {
        "cpu": model,
        "cores": len(cpus()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [],
        "dtypes": ["fp32", *_fast("bf16", flags, _BF16_FLAGS), *_fast("fp16", flags, _FP16_FLAGS)],
        "variables": speed(os.environ),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := installed(name))},
    }
    if used := (box or cards.look()).used:  # left out without a GPU: a CPU's digest is what it always was
        facts |= _gpu_facts(used[0])
        facts["packages"] |= _gpu_packages()
    git = _git()
    name, comparable = _digests(facts, git)
    return Environment(id=name, comparable=comparable, **facts, git=git)


def consistent(environment: Environment) -> bool:
    """Whether its digests are those of what it says."""
    facts = {name: value for name, value in asdict(environment).items() if name not in ("id", "comparable", "git")}
    left_out = {"driver", "gpu_memory_gib"} if not environment.driver and not environment.gpu_memory_gib else set()
    left_out |= set() if environment.gpu_power_w else {"gpu_power_w"}
    facts = {name: value for name, value in facts.items() if name not in left_out}
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


def _gpu_facts(card: cards.Card) -> dict[str, Any]:
    """What is known of the kind of card that cells run on."""
    facts: dict[str, Any] = {"gpus": [card.model]}
    if card.driver or card.memory_gib is not None:
        facts |= {"driver": card.driver, "gpu_memory_gib": [] if card.memory_gib is None else [card.memory_gib]}
    if card.power_limit_w is not None:
        facts["gpu_power_w"] = [card.power_limit_w]
    return facts


def _gpu_packages() -> dict[str, str]:
    """Versions of what computes on a GPU, as far as they can be known without torch."""
    found = {what: next(filter(None, map(installed, names)), "") for what, names in _ON_GPUS.items()}
    found["cuda"] = _built_for()
    return {what: version for what, version in found.items() if version}


def _built_for() -> str:
    """The version of CUDA that torch was built for, from the file in which it says so; "" where it does not."""
    place = importlib.util.find_spec("torch")  # finds it and imports nothing
    try:
        text = "" if place is None or place.origin is None else (Path(place.origin).parent / "version.py").read_text()
    except OSError:
        return ""
    said = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return said[1] if said else ""


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
