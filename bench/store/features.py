"""What a frozen backbone makes of images, kept on the disk: one folder a key, one memory-mapped array in it.

A key is a text that says everything the numbers depend on; its digest names the folder. Rows are written one by one,
each marked when it is whole, so a process that is killed loses nothing, and several may fill a key together. Before a
new key is begun, the keys that were used longest ago and are used by nobody make room for it.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan.environment import amount

VARIABLE, GIB = "DENSEBENCH_FEATURES_GIB", 20.0
"""Environment variable for the most that lies in the folder, in GiB (0: nothing is kept), and what it is without."""
_INDEX, _ROWS, _DONE, _FIRST, _USERS = "index.json", "rows.bin", "done.bin", "first", "users"


def bound() -> int:
    """Bytes that kept features may take.

    Raises:
        UserError: the variable holds no number that is at least 0.
    """
    return int(amount(VARIABLE, GIB, "the GiB that kept features may take") * 2**30)


class Rows:
    """The array of one key: ``count`` rows of one shape.

    Attributes:
        first: whether this process opened the key while no other did: of several that fill it, one begins at the front.
    """

    def __init__(
        self, folder: Path, count: int, shape: tuple[int, ...], dtype: str, locks: list[int], *, first: bool
    ) -> None:
        self.first, self._locks, self._dtype = first, locks, np.dtype(dtype)
        self.full = False
        self._rows: NDArray[Any] = np.memmap(folder / _ROWS, dtype, "r", shape=(count, *shape))
        self._done: NDArray[np.uint8] = np.memmap(folder / _DONE, np.uint8, "r", shape=(count,))
        # Written through descriptors and not through the maps: a full disk is then an error and no signal.
        self._into = [os.open(folder / _ROWS, os.O_RDWR), os.open(folder / _DONE, os.O_RDWR)]
        self._locks += self._into

    def has(self, index: int) -> bool:
        """Whether a row is there and whole."""
        return bool(self._done[index])

    def get(self, index: int) -> NDArray[Any]:
        """A row that is there; shares memory with the file."""
        return self._rows[index]

    def put(self, index: int, row: NDArray[Any]) -> None:
        """Keep a row; without effect where it is there, or when the disk is full."""
        if self.full or self._done[index]:
            return
        data = np.ascontiguousarray(row, self._dtype).tobytes()
        rows, done = self._into
        try:
            if os.pwrite(rows, data, index * len(data)) == len(data):
                os.pwrite(done, b"\x01", index)  # after the row: who reads meanwhile must not see half of one
        except OSError:
            self.full = True

    def close(self) -> None:
        """Let others make room by removing it; nothing is read or kept afterwards."""
        if self._locks:
            del self._rows, self._done
        while self._locks:
            os.close(self._locks.pop())


class FeatureStore:
    """A folder of `Rows`.

    Args:
        folder: is made when something is kept.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def open(
        self, key: Mapping[str, Any], count: int, shape: tuple[int, ...], dtype: str, *, expected: int | None = None
    ) -> Rows | None:
        """The rows of a key, made if there are none; None: they are larger than the bound, or the disk is full.

        Args:
            key: all that the numbers depend on, as JSON can write it.
            count: of rows.
            shape: of one.
            dtype: of numpy.
            expected: rows that will be written at most; None: all. What is not written takes no room.
        """
        text = json.dumps({**key, "count": count, "shape": shape, "dtype": dtype}, sort_keys=True, indent=1)
        folder = self.folder / hashlib.sha256(text.encode()).hexdigest()[:20]
        row = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = (count if expected is None else expected) * row
        locks: list[int] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            first = _lock(folder / _FIRST, fcntl.LOCK_EX, locks)
            _lock(folder / _USERS, fcntl.LOCK_SH, locks, wait=True)
            there = _whole(folder, text, count, count * row)
            if not there and first and self._room(room, folder):
                _begin(folder, text, count, count * row)
                there = True
            if there:
                os.utime(folder / _INDEX)
                return Rows(folder, count, shape, dtype, locks, first=first)
        except OSError:
            pass  # full, read-only, or removed in this moment: then nothing is kept
        for descriptor in locks:
            os.close(descriptor)
        return None

    def _room(self, size: int, mine: Path) -> bool:
        """Whether so many bytes fit within the bound, after what was used longest ago has gone."""
        if size > self.limit:
            return False
        kept = sorted((one for one in self.folder.iterdir() if one.is_dir() and one != mine), key=_used)
        taken = sum(_size(one) for one in kept)
        for one in kept:
            if taken + size <= self.limit:
                break
            gone = _size(one)
            if _removed(one):
                taken -= gone
        return taken + size <= self.limit and shutil.disk_usage(self.folder).free > size


def _lock(file: Path, kind: int, held: list[int], *, wait: bool = False) -> bool:
    """Whether this process now has that lock, which is then among ``held``."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    held.append(descriptor)
    return True


def _whole(folder: Path, text: str, count: int, size: int) -> bool:
    """Whether the files are those of this key, none of them cut off."""
    try:
        same = (folder / _INDEX).read_text(encoding="utf-8") == text
        return same and (folder / _ROWS).stat().st_size == size and (folder / _DONE).stat().st_size == count
    except (OSError, UnicodeDecodeError):
        return False


def _begin(folder: Path, text: str, count: int, size: int) -> None:
    """Empty files of the right length; the index comes last, without which the others are nothing."""
    (folder / _INDEX).unlink(missing_ok=True)
    for name, length in ((_ROWS, size), (_DONE, count)):
        with (folder / name).open("wb") as file:
            file.truncate(length)
    (folder / _INDEX).write_text(text, encoding="utf-8")


def _used(folder: Path) -> float:
    try:
        return (folder / _INDEX).stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for one in folder.iterdir():
        with suppress(OSError):
            total += one.stat().st_blocks * 512  # what is really taken: the arrays have holes
    return total


def _removed(folder: Path) -> bool:
    """Remove a key unless a process has it open."""
    held: list[int] = []
    try:
        if not _lock(folder / _USERS, fcntl.LOCK_EX, held):
            return False
        for name in (_INDEX, _ROWS, _DONE, _FIRST, _USERS):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True
