"""Where a training keeps its state while it is not done, and its weights where several cells share them.

``<cache folder>/training/<digest>.state`` and ``<cache folder>/trained/<digest>.json``. The digest is of the question
that the training answers and of the environment, so another recipe, seed, data set or version of the code never finds
it. What is in the files is the business of `bench.training.state` and `bench.model.trained`.
"""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from bench.plan.environment import amount

FOLDER, ENDING = "training", ".state"
TRAINED, TRAINED_ENDING = "trained", ".json"
ENDED = frozenset({"ok", "unsupported", "invalid"})
"""After a measurement of such a status its state is of no more use; after another the next run goes on from it."""
DAYS = 14
"""After which a state that nobody has gone on from is removed, and weights that nobody has used."""
VARIABLE, SECONDS = "DENSEBENCH_STATE_S", 120.0
"""Environment variable for the seconds between two states of a training (0: none is kept), and what it is without."""


def path(cache: Path, question: str, environment: str) -> Path:
    """The file of the training that answers a question (a record's key) in an environment (its id)."""
    return cache / FOLDER / f"{_digest(question, environment)}{ENDING}"


def weights(cache: Path, question: str, environment: str) -> Path:
    """The file that says what came of the training, for the cells that share it."""
    return cache / TRAINED / f"{_digest(question, environment)}{TRAINED_ENDING}"


def _digest(question: str, environment: str) -> str:
    return hashlib.sha256(f"{question}\n{environment}".encode()).hexdigest()[:20]


def every() -> float:
    """Seconds between two states; 0: none is kept.

    Raises:
        UserError: the variable holds no number that is at least 0.
    """
    return amount(VARIABLE, SECONDS, "the seconds between two states of a training")


def remove(file: Path) -> None:
    """Remove a state that is of no more use; one that cannot be removed does no harm."""
    with suppress(OSError):
        file.unlink(missing_ok=True)


def prune(cache: Path, days: float = DAYS) -> None:
    """Remove states and weights, whole or being written, that nobody has touched for so many days."""
    for folder in (FOLDER, TRAINED):
        with suppress(OSError):
            for file in (cache / folder).iterdir():
                with suppress(OSError):
                    ours = folder == TRAINED or ENDING in file.suffixes
                    if ours and time.time() - file.stat().st_mtime > 24 * 3600 * days:
                        remove(file)
