"""Training recipes: one TOML file each, in ``bench/recipes`` or of one's own, with a table for each task."""

import hashlib
import json
import re
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.catalogue import first_sentence
from bench.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
ENDING = ".toml"
TASKS = ("segmentation", "detection")
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


def names() -> list[str]:
    """The recipes that come with densebench, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def doc(name: str) -> str:
    """First sentence of the comment that one of `names` begins with."""
    lines = (FOLDER / f"{check(name)}{ENDING}").read_text(encoding="utf-8").splitlines()
    return first_sentence(" ".join(line.strip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)))


def check(value: str) -> str:
    """A value of the axis ``recipe`` as it was given: one of `names`, or the path of a TOML file of one's own.

    Raises:
        UserError: no such recipe or file, or a mistake in the file; names file and key.
    """
    if value.endswith(ENDING):
        _read(Path(value).expanduser())
    elif value not in names():
        raise unknown("recipe", value, [*names(), f"FILE{ENDING}"])
    return value


def resolve(value: str, task: str) -> tuple[str, Recipe | None]:
    """What a cell calls a recipe, and for a file of one's own what it states for a task.

    ``../mine.toml`` becomes ``mine@3f2a1c8``, the file's name and a part of its content's digest: no path gets into a
    record, and two files of one name, or one that was edited, are two recipes. None where the file states nothing for
    the task.

    Raises:
        UserError: see `load`.
    """
    if not value.endswith(ENDING):
        return value, None
    stated = _read(Path(value).expanduser()).get(task)
    stem = re.sub(r"[^\w.-]+", "_", Path(value).stem)
    return f"{stem}@{digest_of(stated)[:7] if stated else f'no-{task}'}", stated


def load(value: str, task: str) -> Recipe:
    """One recipe for one task, by its name or from a file (a path that ends in ``.toml``).

    Raises:
        UserError: no such recipe, no table for the task, or a wrong key or value; names file and key.
    """
    return _table(Path(value).expanduser(), task) if value.endswith(ENDING) else _of_the_house(value, task)


@cache
def digest(name: str, task: str) -> str:
    """Digest of what one of `names` states for a task, see `digest_of`.

    Raises:
        UserError: as for `load`.
    """
    return digest_of(_of_the_house(name, task))


def digest_of(recipe: Recipe) -> str:
    """Digest of what a recipe states, so that an edited recipe is another question (a comment is not)."""
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _of_the_house(name: str, task: str) -> Recipe:
    return _table(FOLDER / f"{check(name)}{ENDING}", task)


def _table(path: Path, task: str) -> Recipe:
    tables = _read(path)
    if task not in tables:
        raise UserError(f"{path} has no table [{task}]; it has {', '.join(tables) or 'none'}")
    return tables[task]


def _read(path: Path) -> dict[str, Recipe]:
    """Task -> what the file states for it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error} (looked from {Path.cwd()})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {path} is no TOML: {error}") from error
    for key, value in document.items():
        if key not in TASKS:
            raise UserError(f"{path}: {unknown('table', key, TASKS)}")
        if not isinstance(value, dict):
            raise UserError(f"{path}: [{key}] has to be a table of a recipe's fields, {value!r} came")
    return {task: _recipe(value, f"{path}, [{task}]") for task, value in document.items()}


def _recipe(stated: dict[str, Any], where: str) -> Recipe:
    if strange := sorted(set(stated) - set(Recipe.model_fields)):
        raise UserError(f"{where}: {unknown('key', strange[0], Recipe.model_fields)}")
    try:
        return Recipe(**stated)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{where} {key}: {wrong['msg']} (came: {wrong['input']!r})") from error
