"""The pictures of predictions beside a machine's records: what they are called."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bench.plan import weights
from bench.plan.cell import SILENT

FOLDER = "pictures"
_USUAL = frozenset({"fp32", "auto", weights.RANDOM, *SILENT.values()})


def name(fields: Mapping[str, Any]) -> str:
    """File name of the picture of a training, from its fields: a name on any system, and in a link of Markdown."""
    start = PurePath(fields["weights"]).name if "/" in fields["weights"] else fields["weights"]
    executed = [fields.get(name, usual) for name, usual in SILENT.items()]
    others = [one for one in (start, fields["dtype"], fields["attention"], *executed) if one not in _USUAL]
    named = (fields["dataset"], fields["backbone"], f"p{fields['patch']}", fields["head"])
    parts = (*named, f"{fields['height']}x{fields['width']}", *others, fields["recipe"], f"seed{fields['seed']}")
    return "_".join(re.sub(r"[^\w.+=@-]+", "-", part) for part in parts) + ".png"
