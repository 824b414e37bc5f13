"""What is kept of every image beside the records: ``images/<digest>.npz``, named in the record whose figures it gives.

The digest is that of the file's own bytes, so a name never comes to mean something else, and a file that was damaged or
mixed up is noticed.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

FOLDER = "images"
"""Beside the records."""


def write(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Keep arrays in a folder, whole or not at all, and return their digest.

    Raises:
        OSError: the folder cannot be written to.
    """
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType] - none is named allow_pickle
    content = file.getvalue()
    digest = digest_of(content)
    put(folder, content, digest)
    return digest


def put(folder: Path, content: bytes, digest: str) -> None:
    """Keep the content of a file, whole or not at all, under its digest.

    Raises:
        OSError: the folder cannot be written to.
    """
    place(folder, f"{digest}.npz", content)


def place(folder: Path, name: str, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{os.getpid()}.{name}"
    try:
        with fresh.open("wb") as out:
            out.write(content)
            os.fsync(out.fileno())
        fresh.replace(folder / name)
    finally:
        fresh.unlink(missing_ok=True)


def read(folder: Path, digest: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a digest; None where their file is not there.

    Raises:
        UserError: the file is there and is not what the digest says.
    """
    path = folder / f"{digest}.npz"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _broken(path, str(error)) from error
    if digest_of(content) != digest:
        raise _broken(path, "it has other bytes than when it was written")
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be read ({why}); restore it, or remove it: its record counts without it")


def digest_of(content: bytes) -> str:
    """The name of a file with this content."""
    return hashlib.sha256(content).hexdigest()[:16]
