"""Models that a run has kept: ``results/<machine>/models/<digest>.safetensors``; free of torch, for planning.

The digest is that of the file's own bytes, so a name never comes to mean something else. The metadata say which cell it
was trained as, by which recipe, and for which classes. ``--weights trained:DIGEST`` starts a backbone from one, and
`bench.load_model` opens one.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from bench.errors import UserError, at_home
from bench.plan.cell import Cell
from bench.plan.recipe import Recipe

FOLDER, ENDING = "models", ".safetensors"
"""Beside the records, and of the files in it."""
RESULTS = Path("results")
"""Where models are looked for beside the results folder that was named."""
DIGITS, LEAST = 16, 6
"""Hexadecimal digits of a file's name, and how many of them name it where that is unambiguous."""
METADATA = "densebench"
"""As in `backbones.checkpoint`, which reads the same files as weights."""
_NAME = re.compile(rf"[0-9a-f]{{{DIGITS}}}{re.escape(ENDING)}")
_PART = re.compile(rf"[0-9a-f]{{{LEAST},{DIGITS}}}")


@dataclass(frozen=True)
class Kept:
    """One kept model: its file, and what the metadata say.

    cell: that it was trained as. recipe: that it was trained by. classes: names of what the head tells apart.
    background: index of the class that means "nothing here"; None: there is none. task: of the head. version: of
    densebench, "" where that was not installed.
    """

    path: Path
    cell: Cell
    recipe: Recipe
    classes: tuple[str, ...]
    background: int | None
    task: str
    version: str

    @property
    def digest(self) -> str:
        """Its name."""
        return self.path.stem

    @cached_property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def noted(
    cell: Mapping[str, Any], recipe: Recipe, *, classes: Sequence[str], background: int | None, task: str, version: str
) -> dict[str, Any]:
    """The metadata that `read` reads."""
    return {
        "cell": dict(cell),
        "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        "classes": list(classes),
        "background": background,
        "task": task,
        "version": version,
    }


def read(path: Path) -> Kept:
    """What a file says of its model.

    Raises:
        UserError: it cannot be read, or is no model that densebench has kept.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a kept model: {error}") from error
    try:
        return Kept(
            path,
            Cell(**found["cell"]),
            Recipe(**found["recipe"]),
            tuple(found["classes"]),
            found["background"],
            found["task"],
            found["version"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path} is no model that `densebench run --keep-models` has kept, or one of a newer densebench: its "
            f"metadata lack or have too much of {str(error).partition(chr(10))[0]}"
        ) from error


def files(results: Iterable[Path]) -> list[Path]:
    """The kept models below results folders (or machines' folders), each once, in order of name."""
    found: dict[str, Path] = {}
    for folder in results:
        for path in sorted([*folder.glob(f"{FOLDER}/*{ENDING}"), *folder.glob(f"*/{FOLDER}/*{ENDING}")]):
            if _NAME.fullmatch(path.name):
                found.setdefault(path.stem, path)
    return [found[digest] for digest in sorted(found)]


def find(digest: str, results: Iterable[Path]) -> Path:
    """The file of the kept model whose digest begins like this.

    Raises:
        UserError: there is none, or more than one; or the text is no beginning of a digest.
    """
    folders = list(dict.fromkeys(results))
    if not _PART.fullmatch(digest):
        raise UserError(f"a kept model is named by {LEAST} to {DIGITS} hexadecimal digits, '{digest}' came")
    known = files(folders)
    match [path for path in known if path.stem.startswith(digest)]:
        case [path]:
            return path
        case []:
            where = " or ".join(f"{folder}/*/{FOLDER}" for folder in folders)
            there = f"there is: {', '.join(path.stem for path in known[:8])}" if known else "there is none at all"
            raise UserError(
                f"no kept model begins with {digest} in {where} ({there}); `densebench run --keep-models` keeps them, "
                "`densebench models` lists them"
            )
        case several:
            raise UserError(f"{len(several)} kept models begin with {digest}: {', '.join(p.stem for p in several)}")


def opened(name: str | Path, results: Iterable[Path] = (RESULTS,)) -> Kept:
    """A kept model by its path (which ends in ``.safetensors``) or by the beginning of its digest.

    Raises:
        UserError: as for `find`, `read` and `whole`.
    """
    text = str(name)
    if text.endswith(ENDING):
        path = at_home(text)
        if not path.is_file():
            raise UserError(f"there is no model {path} (looked from {Path.cwd()})")
    else:
        path = find(text, results)
    if _NAME.fullmatch(path.name):
        whole(path)
    return read(path)


def whole(path: Path) -> None:
    """See that a file has the bytes that its name is the digest of.

    Raises:
        UserError: it has others.
    """
    if sha256(path)[:DIGITS] != path.stem:
        raise UserError(f"{path} is damaged: it has other bytes than when it was written; restore it, or remove it")


_KNOWN: dict[tuple[Path, int, int], str] = {}


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; reckoned once as long as it does not change."""
    stat = path.stat()
    key = (path.resolve(), stat.st_size, stat.st_mtime_ns)
    if key not in _KNOWN:
        with path.open("rb") as file:
            _KNOWN[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _KNOWN[key]
