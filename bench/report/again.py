"""The command that measures a row, or more of it."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from bench import catalogue
from bench.plan.cell import DEFAULTS, FIELDS
from bench.plan.measure import measures

_ALWAYS = ("backbone", "patch", "head", "dataset")


def command(fields: Mapping[str, Any], wanted: Iterable[str], seeds: Iterable[int] = ()) -> str:
    """``densebench run ...`` for one row.

    Args:
        fields: of the row, as it is called today.
        wanted: measures.
        seeds: of trainings; none: the one that a run takes by itself.
    """
    names = list(wanted)
    needed = {name for measure in names for name in measures()[measure].fields} - {"seed"}
    words = ["densebench", "run"]
    for name in FIELDS:
        value = fields.get(name)
        if name == "height" and value is not None:
            words += ["--resolution", f"{value}x{fields['width']}"]
        elif name != "width" and name in needed and value is not None and _said(name, value):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--measure", ",".join(names)]
    if several := [str(seed) for seed in seeds]:
        words += ["--seed", ",".join(several)]
    data = catalogue.entries("data").get(str(fields.get("dataset", "")).partition(":")[0])
    if data is not None and data.facts["root"]:
        words += ["--data-root", "FOLDER"]
    return shlex.join(words)


def _said(name: str, value: Any) -> bool:
    """Whether a run would take another value by itself."""
    return name in _ALWAYS or value != DEFAULTS.get(name)
