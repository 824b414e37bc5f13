"""Reading a file that the user may have written."""

import tomllib
from pathlib import Path
from typing import Any

from bench.errors import UserError


def read(path: Path, kind: str) -> dict[str, Any]:
    """What a TOML file says; ``kind`` of thing ("matrix") it is, for messages.

    Raises:
        UserError: it cannot be read, or is no TOML; names the file.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{kind} {path} cannot be read: {error} (looked from {Path.cwd()})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{kind} {path} is no TOML: {error}") from error
