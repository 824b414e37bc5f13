"""What takes reading every label once, or a large file: kept in the cache folder until one of the files changes."""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from os import fsencode, getpid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading kept arrays raises where they are damaged."""


def stamp(paths: Iterable[Path]) -> str:
    """A digest of the places, sizes and times of files; one that is not there counts as such."""
    digest = sha256()
    for path in paths:
        digest.update(fsencode(path))
        with suppress(OSError, ValueError):  # the second: a list may name what no file can be called
            status = path.stat()
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:24]


def remembered(cache: Path, kind: str, paths: list[Path], find: Callable[[], list[str]]) -> list[str]:
    """Return ``find()``, which reads the files ``paths``; kept in the folder ``cache`` until one of them changes.

    The number in ``kind`` goes up when ``find`` comes to mean something else.
    """
    kept = cache / f"{kind}-{stamp(paths)}.json"
    stored = load(kept)
    if isinstance(stored, list) and all(isinstance(entry, str) for entry in stored):
        return stored
    found = find()
    save(kept, found)
    return found


def load(path: Path) -> Any:
    """What `save` kept; None where there is nothing, or nothing whole."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def save(path: Path, content: Any) -> None:
    """Keep something that JSON knows. A folder that cannot be written costs the time of the next look, no more."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{getpid()}.tmp")
        fresh.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        fresh.replace(path)


def origin(path: Path, *words: object) -> str:
    """A digest of a file's place, size and time, and of what is made of it."""
    status = path.stat()
    parts = [
        fsencode(path.resolve()),
        f"{status.st_size}\0{status.st_mtime_ns}".encode(),
        *(f"{one}".encode() for one in words),
    ]
    return sha256(b"\0".join(parts)).hexdigest()[:24]


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What `save_arrays` kept.

    Raises:
        one of `UNREADABLE`: there is nothing, or nothing whole.
    """
    # Opened here: of a file that is cut off, numpy would leave it open.
    with path.open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - its keywords are arrays
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
