"""The kept models below a results folder, and what records say of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.plan import models
from bench.plan.measure import MODEL, measures
from bench.plan.models import Kept
from bench.store.store import RECORDS, Store


@dataclass(frozen=True)
class Line:
    """One kept model.

    kept: what its file says; None: the file cannot be used, and ``problem`` says why. accuracy: the figure that ranks
    its task, in words, where a record of its folder names it; else "".
    """

    path: Path
    kept: Kept | None
    problem: str
    accuracy: str

    @property
    def mib(self) -> float:
        """Size of the file."""
        return self.path.stat().st_size / 2**20

    def cells(self) -> tuple[str, str, str, str]:
        """Digest, what it is, its size, and its accuracy."""
        if self.kept is None:
            return self.path.stem, self.problem, f"{self.mib:.1f} MiB", self.accuracy
        cell = self.kept.cell
        others = [f"recipe {cell.recipe}", f"seed {cell.seed}"]
        others += [f"weights {cell.weights}"] if cell.weights != "random" else []
        others += [cell.dtype] if cell.dtype != "fp32" else []
        return self.path.stem, ", ".join([cell.title(), *others]), f"{self.mib:.1f} MiB", self.accuracy


def lines(results: Path) -> list[Line]:
    """All kept models, in order of digest.

    Raises:
        UserError: records are broken; names file and line.
    """
    paths = models.files((results,))
    said: dict[str, str] = {}
    for folder in sorted({path.parent.parent for path in paths}):
        if (folder / RECORDS).is_file():
            said |= _said(folder)
    return [_line(path, said.get(path.stem, "")) for path in paths]


def _line(path: Path, accuracy: str) -> Line:
    try:
        return Line(path, models.read(path), "", accuracy)
    except UserError as error:
        return Line(path, None, str(error), accuracy)


def _said(folder: Path) -> dict[str, str]:
    """Digest -> the headline figures of the record that names it."""
    found: dict[str, str] = {}
    for record in Store(folder).records():
        digest, measure = record.values.get(MODEL), measures().get(record.measure)
        if not isinstance(digest, str) or measure is None:
            continue
        words = []
        for column in measure.columns:
            value = record.values.get(column.name)
            if column.headline and isinstance(value, (int, float)):
                words.append(f"{column.title} {value:.{column.digits}f} {column.unit}")
        found[digest] = ", ".join(words)
    return found


def chosen(found: Iterable[Line], digests: Iterable[str]) -> list[Line]:
    """The lines whose digests begin with one of these.

    Raises:
        UserError: one of them begins none, or several.
    """
    lines = list(found)
    picked: list[Line] = []
    for digest in digests:
        fitting = [line for line in lines if line.path.stem.startswith(digest)]
        if len(fitting) != 1:
            many = "no kept model begins" if not fitting else f"{len(fitting)} kept models begin"
            raise UserError(f"{many} with '{digest}'; `densebench models` lists them")
        picked += fitting
    return picked
