"""The cache folder, and in it what plug-in files state: parsing them all takes longer than a look at their dates."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from bench.errors import UserError

_FORM = 1
"""Of what `Stated` keeps; another number means that something else is kept of a file."""

_TICK_NS = 2 * 10**9
"""Two edits within one tick leave one date; no file system's clock is coarser than this."""


def cache_folder() -> Path:
    """Where what can be made again is kept: ``$DENSEBENCH_CACHE``, or ``densebench`` in the user's cache folder.

    Raises:
        UserError: neither is known, as the user has no home.
    """
    if named := os.environ.get("DENSEBENCH_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densebench"
    except RuntimeError as error:
        raise UserError("this user has no home; name a folder for the cache in DENSEBENCH_CACHE") from error


class Stated:
    """What files state, kept in one file of the cache folder from one start to the next.

    A file is parsed again when its size or one of its dates is another one. What JSON would change is not kept. A cache
    that is missing, torn or cannot be written to is as good as an empty one.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._news = False
        with suppress(OSError, UserError, ValueError, RecursionError):  # UserError: no home is known
            head, _, body = _file().read_bytes().partition(b"\n")
            if head == _head(body):
                self._files = json.loads(body)

    def of(self, path: Path, parse: Callable[[], Any]) -> Any:
        """What a file states: as it is kept, or else by ``parse``, whose errors are not kept."""
        try:
            stamp = _stamp(path)  # before the file is read: after an edit meanwhile, the next start reads it again
        except OSError:
            return parse()
        name = str(path.absolute())
        kept = self._files.get(name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        value = parse()
        if time.time_ns() - max(stamp[1:]) > _TICK_NS and _faithful(value):
            self._files[name] = [stamp, value]
            self._news = True
        return value

    def keep(self) -> None:
        """Write down what was parsed, if anything was; files that are gone drop out."""
        if not self._news:
            return
        files = {name: kept for name, kept in self._files.items() if Path(name).exists()}
        body = json.dumps(files).encode()
        with suppress(OSError, UserError):
            path = _file()
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                written.write_bytes(_head(body) + b"\n" + body)
                written.replace(path)  # whole or not at all, whoever else writes or reads
            finally:
                written.unlink(missing_ok=True)


def _file() -> Path:
    return cache_folder() / "stated.json"


def _head(body: bytes) -> bytes:
    return f"densebench {_FORM} {crc32(body):08x}".encode()


def _stamp(path: Path) -> list[int]:
    """Size, date of the content, and date of any change, which cannot be set back."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _faithful(value: Any) -> bool:
    """Whether JSON gives it back: a tuple would come back as a list."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False
