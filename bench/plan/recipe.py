"""Training recipes: one TOML file each, in ``bench/recipes`` or of one's own, with a table for each task.

A value of the axis ``recipe`` is a name or a file, and may change fields: ``probe+train_share=0.25`` is
`probe` on a quarter of the images. What comes after ``=`` is written as in TOML, a bare word is a text. Such a recipe
goes by that whole text in records and tables.
"""

import hashlib
import json
import re
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.catalogue import first_sentence
from bench.errors import UserError, at_home, shown, unknown
from bench.plan import toml

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
ENDING = ".toml"
TASKS = ("segmentation", "detection")
Fraction = Annotated[float, Field(ge=0, le=1)]


class Teacher(BaseModel):
    """A cell whose kept model teaches: trained on the student's data set before, with ``run --keep-models``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(description="name in the catalogue")
    head: str = Field(description="name in the catalogue")
    resolution: str = Field(pattern=r"^\d+x\d+$", description="its input, height x width in pixels")
    recipe: str = Field(description="name of the recipe that it was trained by")
    weights: str = Field(default="random", description="that it started from")
    patch: int | None = Field(default=None, ge=1, description="pixels; default: the backbone's native one")
    seed: int = Field(default=0, ge=0, description="of its training")

    def in_words(self) -> str:
        """For tables and errors."""
        start = "" if self.weights == "random" else f" from {self.weights}"
        return f"{self.backbone} {self.head} {self.resolution}{start}, recipe {self.recipe}, seed {self.seed}"


class Recipe(BaseModel):
    """How a model is trained for one task; every number that the result depends on, the seed apart.

    A recipe keeps the ``pipeline`` that its records were made with, for another one draws other augmentations. 1 is
    `bench.training.series`, with its faults; 2, which a new recipe gets, is `bench.training.loader`.
    """

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
    pipeline: Literal[1, 2] = Field(default=2, description="version of what makes the samples")
    meet: Literal["stretch", "crop", "letterbox"] = Field(
        default="stretch",
        description="how a picture of another shape meets the input, at zoom 1: stretch: both sides are scaled to it; "
        "crop: the picture covers it, and what stands out is cut off; letterbox: the picture fits into it, and the "
        "rest is padded with the mean colour. All but stretch keep the aspect",
    )
    windows: Fraction | None = Field(
        default=None,
        gt=0,
        description="with crop, segmentation is evaluated in windows of the input's size that lie so much of its side "
        "apart, and the scores are averaged where they overlap (0.67 is usual); default: the whole picture at once, "
        "fitted into the input",
    )
    windows_zoom: float = Field(default=1.0, ge=1, description="zoom at which the windows are taken")
    flip: bool | Literal["data"] = Field(
        default=True, description="mirror left to right with probability 0.5; data: if that keeps what the data means"
    )
    flip_vertical: bool | Literal["data"] = Field(
        default=False, description="mirror top to bottom with probability 0.5; data: likewise"
    )
    scale: tuple[float, float] | None = Field(default=None, description="range of random zoom, then crop or pad")
    jitter: Fraction = Field(default=0.0, description="strength of brightness, contrast and saturation jitter")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="strength of the shift of hue, in turns of the circle")
    blur: Fraction = Field(
        default=0.0,
        description="probability of a Gaussian blur of 0.1 to 2 pixels (SimCLR, Chen et al. 2020, arXiv 2002.05709)",
    )
    erase: Fraction = Field(
        default=0.0,
        description="probability that a rectangle of 2 to 20 % of the input is filled with the mean colour (random "
        "erasing, Zhong et al. 2020, arXiv 1708.04896); its pixels are ignored in segmentation",
    )
    copy_paste: Fraction = Field(
        default=0.0,
        description="probability that objects of the next image of the batch are pasted in by their masks (Ghiasi et "
        "al. 2021, arXiv 2012.07177); of data or heads without instance masks nothing is",
    )
    start: Literal["any", "random", "pretrained"] = Field(
        default="any", description="weights that the numbers are meant for; others are refused unless forced"
    )
    freeze: bool = Field(
        default=False, description="the backbone stays as it is, in evaluation mode: the head alone learns"
    )
    backbone_lr: float = Field(default=1.0, gt=0, description="learning rate of the backbone, as a factor of lr")
    head_lr: float = Field(
        default=1.0, gt=0, description="that of the head likewise (10 in SegFormer, Xie et al. 2021, arXiv 2105.15203)"
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="each layer of the backbone learns at this factor of the rate of the one above it (BEiT, Bao et "
        "al. 2022, arXiv 2106.08254)",
    )
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that the last block of the backbone is skipped, falling to 0 at the first (stochastic "
        "depth, Huang et al. 2016, arXiv 1603.09382)",
    )
    freeze_norm: bool = Field(
        default=False,
        description="batch norms of the backbone keep statistics, scale and offset, as detectors with small batches do",
    )
    aux_heads: bool = Field(
        default=False, description="with the auxiliary loss that the head's paper has (UPerNet: Xiao et al. 2018)"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="evaluate the exponential moving average of the weights, with this decay a step (Polyak and "
        "Juditsky 1992; Tarvainen and Valpola 2017, arXiv 1703.01780)",
    )
    grad_accumulation: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    teacher: Teacher | None = Field(
        default=None, description="segmentation alone: a kept model that the student learns from beside the truth"
    )
    teacher_share: Fraction = Field(
        default=0.5, description="share of the loss that the teacher has (0.5 in DeiT, hard)"
    )
    temperature: float = Field(
        default=1.0, gt=0, description="of soft distillation (Hinton et al. 2015, arXiv 1503.02531)"
    )
    train_images: int | None = Field(default=None, ge=1, description="only the first so many training images")
    train_share: Fraction | None = Field(
        default=None,
        gt=0,
        description="only this share of the training images, drawn by the seed; a smaller one lies within a larger",
    )
    val_images: int | None = Field(default=None, ge=1, description="only the first so many validation images")
    check_every: int | None = Field(
        default=None,
        ge=1,
        description="segmentation of data with a pair of classes that only something far away tells apart (scenes): "
        "look at the validation split after every so many steps",
    )
    until: float | None = Field(
        default=None,
        gt=50,
        le=100,
        description="end the training at the first look at which the pair is told apart this often, in percent",
    )
    pictures: int = Field(default=0, ge=0, description="validation images drawn with prediction beside truth")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pipeline == 1 and (self.meet != "stretch" or "data" in (self.flip, self.flip_vertical)):
            raise ValueError("pipeline 1 can only stretch, and flips by yes or no: leave 'pipeline' out")
        if self.windows is not None and self.meet != "crop":
            raise ValueError(f"windows go with meet = 'crop', not with '{self.meet}'")
        if self.windows_zoom != 1 and self.windows is None:
            raise ValueError("windows_zoom is of the windows: say how far apart they are (windows = 0.67)")
        if self.pipeline == 1 and any((self.hue, self.blur, self.erase, self.copy_paste)):
            raise ValueError("hue, blur, erase and copy_paste are of pipeline 2: leave 'pipeline' out")
        if self.freeze and (self.backbone_lr, self.layer_decay, self.drop_path) != (1, 1, 0):
            raise ValueError("a frozen backbone has no backbone_lr, layer_decay or drop_path: take them or freeze out")
        if self.freeze and self.start == "random":
            raise ValueError(
                "a backbone that is frozen at random weights learns nothing: start is 'pretrained' or 'any'"
            )
        if self.teacher is not None and self.freeze:
            raise ValueError("a teacher is for a student that learns: take teacher or freeze out")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is a range of zooms above 0, the smaller first; {list(self.scale)} came")
        return self

    @model_validator(mode="after")
    def _looks(self) -> Self:
        if self.check_every is not None and self.ema is not None:
            raise ValueError("check_every looks at the weights as they are, and ema evaluates others: take one of them")
        if self.until is not None and self.check_every is None:
            raise ValueError("until needs looks: say after how many steps (check_every = 25)")
        return self

    @property
    def batches(self) -> int:
        """Batches of the whole training."""
        return self.steps * self.grad_accumulation

    def in_words(self) -> str:
        """What tables say of it: steps, and how a picture meets the input in training and in evaluation."""
        met = {
            "stretch": "pictures stretched to the input",
            "crop": "pictures cropped to the input, aspect kept",
            "letterbox": "pictures fitted into the input, aspect kept",
        }[self.meet]
        if self.scale is not None:
            met += f", zoom {self.scale[0]:g} to {self.scale[1]:g}"
        if self.windows is not None:
            met += f", evaluated in windows {self.windows:g} of the input apart"
            met += f" at zoom {self.windows_zoom:g}" if self.windows_zoom != 1 else ""
        elif self.meet == "crop":
            met += ", evaluated whole"
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''} of {self.batch * self.grad_accumulation} images"
        if self.train_share is not None:
            steps += f", {100 * self.train_share:g} % of the training images"
        steps += f" at most, until {self.until:g} % of the pair are told apart" if self.until is not None else ""
        steps += ", backbone frozen" if self.freeze else ""
        steps += f", taught by {self.teacher.in_words()}" if self.teacher is not None and self.teacher_share else ""
        return f"{steps}, {met}" + (", pipeline 1" if self.pipeline == 1 else "")


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
    base, changes = _parsed(value)
    if not base.endswith(ENDING) and base not in names():
        raise unknown("recipe", base, [*names(), f"FILE{ENDING}"])
    if base.endswith(ENDING) or changes:
        tables = _read(_path(base))
        for task in tables if changes else ():
            _changed(tables[task], changes, f"recipe {value}, [{task}]")
    return value


def resolve(value: str, task: str) -> tuple[str, Recipe | None]:
    """What a cell calls a recipe, and for a file of one's own what it states for a task.

    ``../mine.toml`` becomes ``mine@3f2a1c8``, the file's name and a part of its content's digest: no path gets into a
    record, and two files of one name, or one that was edited, are two recipes. None where the file states nothing for
    the task.

    Raises:
        UserError: see `load`.
    """
    base, changes = _parsed(value)
    stated = _read(_path(base)).get(task)
    ending = value[len(base) :]
    if not base.endswith(ENDING):
        if stated is None:
            return f"{base}@no-{task}", None
        return value, _changed(stated, changes, f"recipe {value}") if changes else None
    stem = re.sub(r"[^\w.-]+", "_", Path(base).stem)
    called = f"{stem}@{digest_of(stated)[:7] if stated else f'no-{task}'}{ending}"
    return called, None if stated is None else _changed(stated, changes, f"recipe {value}")


def load(value: str, task: str) -> Recipe:
    """One recipe for one task, by its name or from a file (a path that ends in ``.toml``).

    Raises:
        UserError: no such recipe, no table for the task, or a wrong key or value; names file and key.
    """
    base, changes = _parsed(value)
    stated = _table(_path(base), task) if base.endswith(ENDING) else _of_the_house(base, task)
    return _changed(stated, changes, f"recipe {value}")


def unsuited(stated: Recipe, weights: str) -> str:
    """Why a recipe is not for such weights (a value of the axis ``weights``); "" if it is."""
    if stated.start == "random" and weights != "random":
        return "it is for random weights: its learning rate rewrites pretrained ones"
    if stated.start == "pretrained" and weights == "random":
        return "it is for pretrained weights: random ones learn little or nothing by it"
    return ""


def suited(task: str, weights: str) -> list[str]:
    """Those of `names` that train for a task from such weights, and were written for them."""
    found = [name for name in names() if task in _read(FOLDER / f"{name}{ENDING}")]
    fit = {name: _of_the_house(name, task) for name in found}
    return [name for name, one in fit.items() if one.start != "any" and not unsuited(one, weights)]


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
    # The first one goes without saying, as it did before there were two; a later one is what the numbers depend on.
    stated.pop("pipeline", None)
    stated.pop("start", None)  # which weights it is meant for changes no number
    if recipe.pipeline != 1:
        stated["pipeline"] = recipe.pipeline
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _of_the_house(name: str, task: str) -> Recipe:
    return _table(FOLDER / f"{check(name)}{ENDING}", task)


_CHANGES = re.compile(r"^(?P<base>.+?)(?P<changes>(?:\+[A-Za-z_]+=[^+]+)+)$")


def _parsed(value: str) -> tuple[str, dict[str, Any]]:
    """Name or path, and the fields that are changed."""
    match = _CHANGES.match(value)
    if match is None:
        return value, {}
    pairs = [pair.partition("=") for pair in match["changes"][1:].split("+")]
    return match["base"], {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> Any:
    try:
        return toml.parse(f"x = {text}")["x"]
    except ValueError:
        return text


def _changed(stated: Recipe, changes: dict[str, Any], where: str) -> Recipe:
    return _recipe({**stated.model_dump(exclude_unset=True), **changes}, where) if changes else stated


def _path(base: str) -> Path:
    return at_home(base) if base.endswith(ENDING) else FOLDER / f"{check(base)}{ENDING}"


def _table(path: Path, task: str) -> Recipe:
    tables = _read(path)
    if task not in tables:
        raise UserError(f"{path} has no table [{task}]; it has {', '.join(tables) or 'none'}")
    return tables[task]


def _read(path: Path) -> dict[str, Recipe]:
    """Task -> what the file states for it."""
    document = toml.read(path, "recipe")
    for key, value in document.items():
        if key not in TASKS:
            raise UserError(f"{path}: {unknown('table', key, TASKS)}")
        if not isinstance(value, dict):
            raise UserError(f"{path}: [{key}] has to be a table of a recipe's fields, {shown(value)} came")
    found = {task: _recipe(value, f"{path}, [{task}]") for task, value in document.items()}
    if "detection" in found and found["detection"].windows is not None:
        raise UserError(f"{path}, [detection]: windows are of segmentation; boxes are found in the whole picture")
    return found


def _recipe(stated: dict[str, Any], where: str) -> Recipe:
    if strange := sorted(set(stated) - set(Recipe.model_fields)):
        raise UserError(f"{where}: {unknown('key', strange[0], Recipe.model_fields)}")
    try:
        return Recipe(**stated)
    except ValidationError as error:
        wrong = error.errors()[0]
        if not wrong["loc"]:
            raise UserError(f"{where}: {wrong['msg'].removeprefix('Value error, ')}") from error
        key = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{where} {key}: {wrong['msg']} (came: {shown(wrong['input'])})") from error
