"""Files that a node has written, brought to where the run keeps them."""

from collections.abc import Iterable
from dataclasses import replace

from bench.launchers.contract import Finished, Settings
from bench.plan import models
from bench.plan.measure import IMAGES, IMAGES_LOST, MODEL, MODEL_LOST
from bench.store import images, pictures

_OF_RECORD = {images.FOLDER: (IMAGES, IMAGES_LOST), models.FOLDER: (MODEL, MODEL_LOST)}
"""Folder -> what a record says where its file is there, and where it could not be written."""


def home(files: Iterable[tuple[str, str, bytes]], settings: Settings) -> dict[str, str]:
    """Write files (folder, name, content), each whole or not at all; folder -> why it cannot be written to."""
    into = {pictures.FOLDER: settings.pictures, images.FOLDER: settings.images, models.FOLDER: settings.models}
    failed: dict[str, str] = {}
    for kind, name, content in files:
        if (folder := into[kind]) is None:
            continue
        try:
            images.place(folder, name, content)
        except OSError as error:  # a full disk does not cost what was measured
            failed[kind] = f"{folder} cannot be written to ({error.strerror or error})"
    return failed


def without(event: Finished, failed: dict[str, str]) -> Finished:
    """An event that does not name files which could not be written."""
    values = dict(event.values)
    for kind, why in failed.items():
        there, lost = _OF_RECORD.get(kind, ("", ""))
        if values.pop(there, None) is not None:
            values[lost] = why
    return replace(event, values=values)
