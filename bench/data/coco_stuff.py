"""COCO-Stuff: label maps of COCO's pictures, of things and stuff or of stuff alone.

Layouts of the data root, beside the pictures in train2017 and val2017 (or in images/train2017, ...)::

    stuffthingmaps/train2017/NAME.png                  category id less one; 255 is ignored
    stuffthingmaps/train2017/NAME_labelTrainIds.png    the 171 classes themselves, as mmsegmentation makes them
    annotations/stuff_train2017_pixelmaps/NAME.png     id of a stuff category, 183 for all things, 0 is ignored

and val2017 likewise. Classes are the 171 that occur (11 of COCO's 182 ids occur nowhere), or the 91 of stuff and
"other". The images are those that have a label map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data._listing import PHOTO_SUFFIXES, SPLITS, Item, asked, files_by_stem
from bench.data._maps import LabelMaps, plain, targets
from bench.data.contract import IGNORE, Dataset, Split, Task
from bench.errors import DataError

CATALOGUE = {
    "coco_stuff": {
        "tasks": ["segmentation"],
        "root": True,
        "redistributable": False,
        "marks": ["stuffthingmaps*", "annotations/stuff_*_pixelmaps", "stuff_*_pixelmaps"],
        "doc": "COCO-Stuff's label maps: 171 things and stuffs (stuffthingmaps), or stuff alone (stuff_*_pixelmaps)",
    },
}

# Ids 1 to 182 in order, from labels.txt of COCO-Stuff; those in brackets occur in no label map.
_NAMES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,(street sign),stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,(hat),backpack,umbrella,(shoe),
(eye glasses),handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,
skateboard,surfboard,tennis racket,bottle,(plate),wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,
orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,(mirror),dining table,(window),
(desk),toilet,(door),tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,
(blender),book,clock,vase,scissors,teddy bear,hair drier,toothbrush,(hair brush),banner,blanket,branch,bridge,
building-other,bush,cabinet,cage,cardboard,carpet,ceiling-other,ceiling-tile,cloth,clothes,clouds,counter,
cupboard,curtain,desk-stuff,dirt,door-stuff,fence,floor-marble,floor-other,floor-stone,floor-tile,floor-wood,
flower,fog,food-other,fruit,furniture-other,grass,gravel,ground-other,hill,house,leaves,light,mat,metal,
mirror-stuff,moss,mountain,mud,napkin,net,paper,pavement,pillow,plant-other,plastic,platform,playingfield,
railing,railroad,river,road,rock,roof,rug,salad,sand,sea,shelf,sky-other,skyscraper,snow,solid-other,stairs,
stone,straw,structural-other,table,tent,textile-other,towel,tree,vegetable,wall-brick,wall-concrete,wall-other,
wall-panel,wall-stone,wall-tile,wall-wood,water-other,waterdrops,window-blind,window-other,wood""".replace(
        "\n", ""
    ).split(",")
)
_USED = [number for number, name in enumerate(_NAMES, start=1) if name[0] != "("]
_FIRST_STUFF, _OTHER = 92, 183


@dataclass(frozen=True)
class _Form:
    """One form of COCO-Stuff's label maps: their folders, the end of their names, and what their values mean."""

    folders: tuple[str, ...]
    ending: str
    classes: tuple[str, ...]
    table: NDArray[np.int16]
    hint: str


_THINGS = tuple(_NAMES[number - 1] for number in _USED)
_MIXED = ("stuffthingmaps/{split}{year}", "stuffthingmaps_trainval{year}/{split}{year}")
_STUFF = ("annotations/stuff_{split}{year}_pixelmaps", "stuff_{split}{year}_pixelmaps")
_FORMS = (
    _Form(_MIXED, "_labelTrainIds", _THINGS, plain(len(_THINGS)), f"labelTrainIds are 0 to {len(_THINGS) - 1}"),
    _Form(
        _MIXED,
        "",
        _THINGS,
        targets({number - 1: index for index, number in enumerate(_USED)}),
        f"stuffthingmaps hold 0 to {len(_NAMES) - 1} without those of categories that do not occur, or {IGNORE}",
    ),
    _Form(
        _STUFF,
        "",
        (*_NAMES[_FIRST_STUFF - 1 :], "other"),
        targets({0: IGNORE} | {number: number - _FIRST_STUFF for number in range(_FIRST_STUFF, _OTHER + 1)}),
        f"stuff maps hold {_FIRST_STUFF} to {_OTHER}, or 0 for ignored",
    ),
)
_YEARS = ("2017", "2014", "")
_LAYOUT = (
    "want COCO-Stuff's layout: train2017/NAME.jpg with stuffthingmaps/train2017/NAME.png or "
    "annotations/stuff_train2017_pixelmaps/NAME.png, and val2017 likewise"
)


@dataclass(frozen=True)
class _Found:
    """A form, and the images of both splits."""

    form: _Form
    items: Mapping[Split, list[Item]]


def check(root: Path, task: str) -> str:
    """Raise `DataError` unless both splits have label maps with pictures; opens no file."""
    asked(CATALOGUE, "coco_stuff", task)
    _found(root)
    return ""


def load(name: str, *, task: Task, root: Path, cache: Path, split: Split) -> Dataset:
    """One split, images ordered by name. ``cache`` is not needed: nothing is computed ahead."""
    del cache
    asked(CATALOGUE, name, task)
    check(root, task)
    found = _found(root)
    form = found.form
    return LabelMaps("coco_stuff", found.items[split], form.classes, table=form.table, hint=form.hint)


def _found(root: Path) -> _Found:
    """The first form of which both splits are there."""
    lacking = ""
    for form in _FORMS:
        for year in _YEARS:
            folders = {split: folder for split in SPLITS if (folder := _folder(root, form, split, year)) is not None}
            if len(folders) == len(SPLITS):
                return _Found(form, {split: _items(root, folders[split], split, year, form.ending) for split in SPLITS})
            if folders:
                (there,) = folders
                lacking = f"label maps of {there}{year} alone, those of the other split are missing"
    message = f"{root}: {lacking or 'no label maps of stuff'}; {_LAYOUT}"
    raise DataError(message)


def _folder(root: Path, form: _Form, split: Split, year: str) -> Path | None:
    tries = [root / folder.format(split=split, year=year) for folder in form.folders]
    return next((one for one in tries if one.is_dir() and any(one.glob(f"*{form.ending}.png"))), None)


def _items(root: Path, folder: Path, split: Split, year: str, ending: str) -> list[Item]:
    places = (root / f"{split}{year}", root / "images" / f"{split}{year}")
    images = next((place for place in places if place.is_dir()), None)
    if images is None:
        message = f"{root}: no folder {split}{year} with the pictures; {_LAYOUT}"
        raise DataError(message)
    pictures = files_by_stem(images, PHOTO_SUFFIXES)
    maps = {
        stem.removesuffix(ending): name
        for stem, name in files_by_stem(folder, (".png",)).items()
        if stem.endswith(ending)
    }
    if not maps.keys() & pictures.keys():
        message = (
            f"{root}: no label map in {folder.relative_to(root)} has a picture in {images.relative_to(root)}; {_LAYOUT}"
        )
        raise DataError(message)
    return [Item(images / pictures.get(stem, f"{stem}.jpg"), folder / name) for stem, name in maps.items()]
