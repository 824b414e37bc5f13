"""Which files a data set on disk is made of: a digest of names and sizes, so that other data are another question.

Times are no part of it, for a copy has others, nor is what a file holds, which takes minutes to read. Counted are the
pictures and labels of the two splits and the names of the classes: what else lies in the folder changes no number.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from bench import catalogue
from bench.data._listing import SPLITS
from bench.data.contract import Dataset, Task
from bench.plan import dataset

DIGITS = 12
_PART = 4096
"""Files that a thread asks for at a time."""


def digest(name: str, task: Task, root: Path, kept: Path) -> str:
    """Of one data set for one task; a hundred thousand files take a second.

    Args:
        name: of the data set.
        task: of the head.
        root: its folder.
        kept: the cache folder.

    Raises:
        DataError: it cannot be opened.
    """
    found = sha256()
    for split in SPLITS:
        opened = dataset.load(catalogue.dataset(name), task=task, root=root, cache=kept, split=split)
        found.update(repr((split, opened.classes)).encode("utf-8", "backslashreplace"))
        for line in sorted(_lines(opened, root)):
            found.update(line)
    return found.hexdigest()[:DIGITS]


def _lines(opened: Dataset, root: Path) -> Iterator[bytes]:
    """Name below the root and size of each file; a JSON file of all labels counts once."""
    paths = list(dict.fromkeys(path for index in range(len(opened)) for path in map(os.fspath, opened.files(index))))
    parts = [paths[start : start + _PART] for start in range(0, len(paths), _PART)]
    below = os.path.join(root, "")  # noqa: PTH118 - text, as a hundred thousand paths take a second
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:  # a disk far away takes its time for each
        for part, sizes in zip(parts, pool.map(_sizes, parts), strict=True):
            for path, size in zip(part, sizes, strict=True):
                name = path.removeprefix(below) if path.startswith(below) else os.path.relpath(path, root)
                yield os.fsencode(name) + f"\0{size}\n".encode()


def _sizes(paths: list[str]) -> list[int]:
    return [_size(path) for path in paths]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - as above
    except (OSError, ValueError):  # it is missing, or a list names what no file can be called: others say so
        return -1
