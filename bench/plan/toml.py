"""Reading a file that the user may have written."""

import tomllib
from pathlib import Path
from typing import Any

from bench.errors import UserError

_DEEPEST = 32
"""Arrays and tables within one another; what is meant has three."""


def read(path: Path, kind: str) -> dict[str, Any]:
    """What a TOML file says; ``kind`` of thing ("matrix") it is, for messages.

    Raises:
        UserError: it cannot be read, is no TOML, or holds what nobody means; names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the path
        raise UserError(f"{kind} {path} cannot be read: {error} (looked from {Path.cwd()})") from error
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{kind} {path} is no TOML: {error}") from error


def parse(text: str) -> dict[str, Any]:
    """What a text in TOML says.

    Raises:
        ValueError: it is none, is nested more than anybody means, or has whole numbers of more than 64 bits, which TOML
            does not know.
    """
    try:
        found = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    left: list[tuple[Any, int]] = [(found, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(value, (dict, list)):
            left += [(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("it has a whole number of more than 64 bits")
    return found
