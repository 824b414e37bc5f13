"""Which runtimes are here, and what a record says of the one that it was measured with."""

import re
from functools import cache
from pathlib import Path

from bench import catalogue
from bench.catalogue import Entry
from bench.plan.cell import Cell
from bench.plan.environment import installed

TORCH = "torch"
INPUT = "runtime"
"""Input of a record: versions of what its runtime needs, and what of the CPU's instructions such things choose by."""
EXTRA = "quantise"
"""Of densebench, which has what quantising takes."""
FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def lacking(cell: Cell) -> str:
    """Why a cell cannot be measured with its runtime, as far as that is known without importing it; or ""."""
    entry = catalogue.get("runtimes", cell.runtime)
    taken = cell.quantise if cell.quantise in entry.facts["quantise"] else "none"
    if lost := missing(cell.runtime, taken):
        are = "is" if len(lost) == 1 else "are"
        what = "runtime" if cell.quantise == "none" else f"quantise {cell.quantise} of runtime"
        how = remedy(cell.runtime, cell.quantise)
        return f"{what} {cell.runtime} needs {' and '.join(lost)}, which {are} not installed: {how}"
    asked = {"device": cell.device.partition(":")[0], "dtype": cell.dtype, "quantise": cell.quantise}
    for name, value in asked.items():
        had = entry.facts["devices" if name == "device" else "dtypes" if name == "dtype" else name]
        if name == "dtype" and asked["device"] == "cuda":
            had = [*had, *entry.facts.get("cuda_dtypes", ())]
        if value not in had:
            return f"runtime {cell.runtime} has no {name} {value}; it has {', '.join(had)}"
    if cell.runtime == TORCH:
        return ""
    if cell.compile != "none":
        return f"compile {cell.compile} is torch's own; with runtime {cell.runtime} take none"
    if cell.memory_format != "contiguous":
        return f"runtime {cell.runtime} chooses its memory format itself; take contiguous"
    return ""


def _taken(entry: Entry, quantise: str) -> list[str]:
    """Distributions without which a runtime cannot run what is quantised so."""
    return [*entry.facts["needs"], *(entry.facts["quantisers"] if quantise != "none" else ())]


def missing(name: str, quantise: str = "none") -> list[str]:
    """Distributions that a runtime needs and that are not installed."""
    return [one for one in _taken(catalogue.get("runtimes", name), quantise) if not installed(one)]


def remedy(name: str, quantise: str = "none") -> str:
    """The command that installs what a runtime needs."""
    extras = [catalogue.get("runtimes", name).facts["extra"], "" if quantise == "none" else EXTRA]
    extra = ",".join(filter(None, extras))
    return f"pip install 'densebench[{extra}]'" if extra else f"pip install {' '.join(missing(name, quantise))}"


def here(name: str) -> str:
    """The versions that a runtime has, or the command that installs what it needs."""
    return f"no: {remedy(name)}" if missing(name) else versions(name)


@cache
def said(name: str, quantise: str = "none") -> str:
    """What a record says of its runtime; "" of torch as it is, whose version the environment has.

    So a record of one is measured again with another version, and where it was missing, and no other is.
    """
    if name == TORCH and quantise == "none":
        return ""
    return ", ".join(filter(None, [versions(name, quantise), *features()]))


def versions(name: str, quantise: str = "none") -> str:
    """What a runtime needs, as it is installed: "onnxruntime 1.32.0, onnxscript 0.5.7"; "" of one that is unknown."""
    entry = catalogue.find("runtimes", name)
    taken = [] if entry is None else _taken(entry, quantise)
    return ", ".join(f"{one} {installed(one) or 'missing'}" for one in taken if one != TORCH or quantise == "none")


@cache
def features(path: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Of `FEATURES` those that the kernel says the CPU has; none where it does not say."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return ()
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    here = set(flags[1].split()) if flags else set[str]()
    return tuple(name for name in FEATURES if name in here)
