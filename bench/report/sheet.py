"""Cells of CSV that a spreadsheet shows as they are."""

from collections.abc import Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def texts_only(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells of which none is taken for a formula: one that begins as a formula does gets a ``'`` in front.

    Numbers stay numbers. See OWASP, "CSV Injection".
    """
    texts = {cell for cell in cells if isinstance(cell, str)}  # of a hundred thousand rows some hundred
    risky = {text for text in texts if text.startswith(_FORMULA) and not _number(text)}
    return [f"'{cell}" if isinstance(cell, str) and cell in risky else cell for cell in cells] if risky else cells


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
