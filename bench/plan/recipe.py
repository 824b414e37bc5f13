"""Training recipes: one TOML file each, a table for each task.

Those of densebench lie in ``bench/recipes`` and go by their name. A path that ends in ``.toml`` is a recipe of the
user's: a cell calls it by the file's name alone, so that the same file is the same question wherever it lies, and its
content (`digest`) tells it from another one of that name.
"""

import hashlib
import json
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.catalogue import first_sentence
from bench.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
Fraction = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """How a model is trained for one task; every number that the result depends on, the seed apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1, description="optimiser steps")
    batch: int = Field(ge=1, description="images a step")
    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0, description="none on norms, biases, positions and tokens")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    warmup: Fraction = Field(default=0.05, description="share of the steps with rising learning rate")
    final_lr: Fraction = Field(default=0.01, description="learning rate at the end of the cosine, as a share of lr")
    class_weight_power: float = Field(default=0.0, ge=0, description="classes weigh frequency ** -power in the loss")
    class_weight_images: int | None = Field(
        default=None, ge=1, description="count classes on the first so many training images; default: up to 500, spread"
    )
    loss_stride: int = Field(default=1, ge=1, le=2, description="2: pixel loss on every second row and column")
    flip: bool = Field(default=True, description="mirror left to right with probability 0.5")
    flip_vertical: bool = Field(default=False, description="mirror top to bottom with probability 0.5")
    scale: tuple[float, float] | None = Field(default=None, description="range of random zoom, then crop or pad")
    jitter: Fraction = Field(default=0.0, description="strength of brightness, contrast and saturation jitter")
    train_images: int | None = Field(default=None, ge=1, description="only the first so many training images")
    val_images: int | None = Field(default=None, ge=1, description="only the first so many validation images")
    pictures: int = Field(default=0, ge=0, description="validation images drawn with prediction beside truth")


_FILES: dict[str, Path] = {}
"""The user's files that this process knows: name of the file -> where it is."""


def names() -> list[str]:
    """All recipes that come with densebench, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def file(name: str) -> Path | None:
    """Where the recipe of a cell lies, if it is a file of the user's."""
    return _FILES.get(name)


def use(path: Path) -> str:
    """Let this process know a file of the user's; the name that cells call it by.

    Raises:
        UserError: another file of this name is known: cells could not tell the two apart.
    """
    path = path.expanduser().resolve()
    known = _FILES.setdefault(path.name, path)
    if known != path:
        raise UserError(f"two recipes are called {path.name}: {known} and {path}; rename one of them")
    return path.name


def doc(name: str) -> str:
    """First sentence of the comment that a recipe begins with.

    Raises:
        UserError: no such recipe.
    """
    lines = _path(name).read_text(encoding="utf-8").splitlines()
    return first_sentence(" ".join(line.strip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)))


def _path(name: str) -> Path:
    if name in _FILES:
        return _FILES[name]
    if name not in names():
        raise unknown("recipe", name, [*names(), "FILE.toml"])
    return FOLDER / f"{name}.toml"


@cache
def load(name: str, task: str) -> Recipe:
    """One recipe for one task.

    Raises:
        UserError: no such recipe, no table for the task, or a wrong key or value; names file and key.
    """
    path = _path(name)
    tables = _tables(path)
    if task not in tables:
        raise UserError(f"{path} has no table [{task}]; it has {', '.join(tables) or 'none'}")
    if not isinstance(tables[task], dict):
        raise UserError(f"{path}: [{task}] is a table of a recipe's numbers, {tables[task]!r} came")
    try:
        return Recipe(**tables[task])
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{path}, [{task}] {key}: {wrong['msg']} (came: {wrong['input']!r})") from error


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # no TOML and no text are of the latter
        raise UserError(f"recipe {path} cannot be read: {error}") from error


@cache
def digest(name: str, task: str) -> str:
    """Digest of what a recipe states for a task, so that an edited recipe is another question (a comment is not).

    Raises:
        UserError: as for `load`.
    """
    stated = load(name, task).model_dump(mode="json", exclude_unset=True)
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def check(value: str) -> str:
    """The name that cells call a recipe by: a name of `names`, or the path of a file that is read now.

    Raises:
        UserError: no such recipe (says which there are) or file, or something is wrong in it; names file and key.
    """
    if not value.endswith(".toml"):
        return _path(value).stem
    name = use(Path(value))
    for task in _tables(_path(name)):
        load(name, task)
    return name
