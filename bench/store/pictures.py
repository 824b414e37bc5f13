"""The pictures of predictions beside a machine's records: what they are called."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bench.plan import weights

FOLDER = "pictures"
_USUAL = frozenset({"fp32", "auto", weights.RANDOM})


def name(fields: Mapping[str, Any]) -> str:
    """File name of the picture of a training, from its fields: a name on any system, and in a link of Markdown."""
    start = PurePath(fields["weights"]).name if "/" in fields["weights"] else fields["weights"]
    others = [value for value in (start, fields["dtype"], fields["attention"]) if value not in _USUAL]
    named = (fields["dataset"], fields["backbone"], f"p{fields['patch']}", fields["head"])
    parts = (*named, f"{fields['height']}x{fields['width']}", *others, fields["recipe"], f"seed{fields['seed']}")
    return "_".join(re.sub(r"[^\w.+=@-]+", "-", part) for part in parts) + ".png"
