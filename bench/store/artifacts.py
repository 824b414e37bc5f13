"""Exported models, kept on the disk: a folder each, ``<cache folder>/artifacts/<digest>``.

The file ``whole.json`` is written last and says what the others hold, so a folder that was cut off, or changed since,
is found out and made again. What was used longest ago makes room for what is new.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from bench.plan.environment import amount

FOLDER = "artifacts"
DAYS = 30
"""After which an artifact that nobody has used is removed."""
RECENT_S = 3600.0
"""Seconds after its last use for which an artifact is nobody's to remove: another process may be about to load it."""
VARIABLE, GIB = "DENSEBENCH_ARTIFACTS_GIB", 20.0
"""Environment variable for the GiB that artifacts may take, and what it is without."""
WHOLE = "whole.json"
_FORM = 1
"""Of ``whole.json``; another number means that something else is kept."""


@dataclass(frozen=True)
class Kept:
    """An artifact that is whole.

    files: name -> size in bytes and CRC-32. export_s: seconds that its export took. question: digest of what it is of,
    versions apart. made_by: versions that made it.
    """

    files: Mapping[str, tuple[int, int]]
    export_s: float
    question: str
    made_by: str

    @property
    def mib(self) -> float:
        """Size of its files."""
        return sum(size for size, _ in self.files.values()) / 2**20


def find(folder: Path) -> tuple[Kept | None, str]:
    """What is kept in a folder; or None, and what is wrong with it: "" where nothing is there at all."""
    if not folder.is_dir():
        return None, ""
    try:
        kept = _stated(folder)
        wrong = "it is of another version of densebench" if kept is None else _changed(kept.files, _files(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"its {WHOLE} is missing or torn ({type(error).__name__})"
    if wrong:
        return None, wrong
    with suppress(OSError):
        os.utime(folder)
    return kept, ""


def earlier(folder: Path, question: str, made_by: str) -> str:
    """Versions that made another artifact of the same question, which is of no use to others; "": there is none."""
    with suppress(OSError):
        for path in sorted(folder.parent.glob(f"[!.]*/{WHOLE}")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                kept = _stated(path.parent)
                if kept is not None and kept.question == question and kept.made_by != made_by:
                    return kept.made_by
    return ""


def write(folder: Path, make: Callable[[Path], None], *, question: str, made_by: str) -> Kept:
    """Have an artifact made into a folder beside, which then takes its place: nobody finds half of it.

    Raises:
        OSError: it cannot be written. Whatever ``make`` raises.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent, ignore_cleanup_errors=True) as aside:
        made = Path(aside) / "made"
        made.mkdir()
        start = time.perf_counter()
        make(made)
        kept = Kept(_files(made), time.perf_counter() - start, question, made_by)
        stated = {"form": _FORM, "files": kept.files, "export_s": kept.export_s, "question": question}
        (made / WHOLE).write_text(json.dumps({**stated, "made_by": made_by}), encoding="utf-8")
        if find(folder)[0] is None:  # else another process was there first, and may be loading it
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it was there a moment later
                made.rename(folder)
    there, why = find(folder)
    if there is None:
        raise OSError(f"{folder} cannot be written{': ' if why else ''}{why}")
    prune(folder.parent.parent)
    return there


def prune(cache: Path, days: float = DAYS) -> None:
    """Remove artifacts, and what is left of exports that died, that nobody has used for so many days.

    Of others those go that were used longest ago, until they fit into what they may take together.

    Raises:
        UserError: the variable holds no number that is at least 0.
    """
    left = amount(VARIABLE, GIB, "the GiB that exported models may take") * 2**30
    now = time.time()
    for used, size, path in sorted(_listed(cache / FOLDER), reverse=True):
        left -= size
        old = now - used > 24 * 3600 * (1 if path.name.startswith(".") else days)
        if old or (left < 0 and now - used > RECENT_S):
            shutil.rmtree(path, ignore_errors=True)
            left += size


def _listed(folder: Path) -> list[tuple[float, int, Path]]:
    """When it was used, its bytes and its folder, of each."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
                found.append((path.stat().st_mtime, size, path))
    return found


def _stated(folder: Path) -> Kept | None:
    """What ``whole.json`` says; None: in another form."""
    stated: Any = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
    if stated.get("form") != _FORM:
        return None
    files = {name: (int(size), int(check)) for name, (size, check) in stated["files"].items()}
    return Kept(files, float(stated["export_s"]), stated["question"], stated["made_by"])


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE)
    return {str(path.relative_to(folder)): (path.stat().st_size, _check(path)) for path in paths}


def _check(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found = crc32(block, found)
    return found


def _changed(written: Mapping[str, tuple[int, int]], here: Mapping[str, tuple[int, int]]) -> str:
    """What is other than it was written; "": nothing is."""
    for name in sorted({*written, *here}):
        was, now = written.get(name), here.get(name)
        if was is None or now is None:
            return f"{name} is {'missing' if now is None else 'not one of its files'}"
        if was[0] != now[0]:
            return f"{name} has {now[0]} bytes and was written with {was[0]}"
        if was != now:
            return f"{name} has other bytes than when it was written"
    return "" if written else "it has no files"
