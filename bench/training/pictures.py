"""Pictures of predictions beside the truth, one row an image."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.data.contract import IGNORE, Dataset, Truth
from heads.contract import Boxes

WIDTH, MARGIN, LEGEND_ROW = 240, 4, 16
VEIL = 0.55
"""How much of a pixel the colour of an instance mask takes."""
SCORE = 0.3
"""Predicted boxes below this score are not drawn; AP counts them all the same."""
_INK, _PAPER, _UNLABELLED = (20, 20, 20), (255, 255, 255), (0, 0, 0)


def draw(
    rows: Sequence[tuple[NDArray[np.uint8], Truth, NDArray[np.int64] | Boxes]],
    data: Dataset,
    path: Path,
    *,
    photographs: bool,
) -> None:
    """Write a PNG: image | truth | prediction for each row, and a legend of the classes.

    Args:
        rows: image (H, W, 3), its truth, and the predicted mask (of the truth's size) or boxes. Objects with instance
            masks are filled with a veil of their class's colour.
        data: where the class names come from.
        path: file to write.
        photographs: without, the images are left out (their licence may not allow handing them on) and boxes are
            drawn on grey.
    """
    colours = palette(len(data.classes), data.background)
    columns = (["image"] if photographs else []) + ["truth", "prediction"]
    height = round(WIDTH * rows[0][1].size[0] / rows[0][1].size[1])
    legend_width = len(columns) * (WIDTH + MARGIN)
    legend = _legend(data.classes, colours, legend_width)
    top = LEGEND_ROW
    sheet = Image.new("RGB", (legend_width, top + len(rows) * (height + MARGIN) + legend.height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        pen.text((column * (WIDTH + MARGIN) + 2, 1), title, fill=_INK, font=ImageFont.load_default(12))
    for row, (image, truth, found) in enumerate(rows):
        photo = Image.fromarray(image).resize((WIDTH, height))
        ground = photo if photographs else Image.new("RGB", (WIDTH, height), (128, 128, 128))
        if isinstance(found, Boxes):
            assert found.scores is not None, "a prediction has scores"
            seen = (found.scores >= SCORE).cpu().numpy()
            cells = [
                _boxes(ground, truth.boxes, truth.labels, truth.masks, truth.size, colours),
                _boxes(
                    ground,
                    found.xyxy.cpu().numpy()[seen],
                    found.labels.cpu().numpy()[seen],
                    None if found.masks is None else found.masks.cpu().numpy()[seen],
                    truth.size,
                    colours,
                ),
            ]
        else:
            assert truth.mask is not None, "a segmentation data set has masks"
            # Pixels without truth are dark on both sides: what is predicted there counts nowhere.
            unlabelled = truth.mask == IGNORE
            cells = [_mask(truth.mask, unlabelled, colours, height), _mask(found, unlabelled, colours, height)]
        for column, cell in enumerate([photo, *cells] if photographs else cells):
            sheet.paste(cell, (column * (WIDTH + MARGIN), top + row * (height + MARGIN)))
    sheet.paste(legend, (0, sheet.height - legend.height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def overlay(
    image: NDArray[np.uint8],
    found: NDArray[np.int64] | Boxes,
    classes: Sequence[str],
    background: int | None,
) -> Image.Image:
    """A prediction drawn over its picture, at the picture's size, with a legend of the classes below.

    Args:
        image: (H, W, 3) RGB.
        found: class per pixel (H, W), which lies over the picture as a veil; or boxes in pixels of the picture, whose
            names and scores stand at their edges, over a veil of their masks where they have any. Boxes below
            `SCORE` are left out.
        classes: their names; the legend has those that occur.
        background: index of the class that means "nothing here", which is left clear; None: there is none.
    """
    colours = palette(len(classes), background)
    picture = Image.fromarray(image)
    if isinstance(found, Boxes):
        assert found.scores is not None, "a prediction has scores"
        seen = (found.scores >= SCORE).cpu().numpy()
        boxes, labels, scores = (one.cpu().numpy()[seen] for one in (found.xyxy, found.labels, found.scores))
        masks = None if found.masks is None else found.masks.cpu().numpy()[seen]
        size = image.shape[0], image.shape[1]
        # The least sure first, so that what is sure lies on top.
        order = np.argsort(scores, kind="stable")
        boxes, labels, scores = boxes[order], labels[order], scores[order]
        picture = _boxes(picture, boxes, labels, None if masks is None else masks[order], size, colours)
        _name(picture, boxes, [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)])
        occurring = np.unique(labels)
    else:
        table = np.zeros((256, 3), np.uint8)
        table[: len(colours)] = colours
        veil = np.full(found.shape, np.uint8(255 * VEIL))
        if background is not None:
            veil[found == background] = 0
        picture.paste(Image.fromarray(table[found.astype(np.uint8)]), (0, 0), Image.fromarray(veil))
        occurring = np.array([label for label in np.unique(found) if label != background], np.int64)
    if not occurring.size:
        return picture
    width = max(picture.width, WIDTH)
    names = [(classes[int(one)], colours[int(one)]) for one in occurring]
    legend = _legend([name for name, _ in names], [colour for _, colour in names], width)
    sheet = Image.new("RGB", (width, picture.height + legend.height), _PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(legend, (0, picture.height))
    return sheet


def _name(picture: Image.Image, boxes: NDArray[np.floating], names: Sequence[str]) -> None:
    """Write a name into the upper left corner of each box, on paper so that it can be read on any picture."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, picture.height // 50))
    for (left, top, _, _), name in zip(boxes, names, strict=True):
        place = max(0.0, float(left)) + 3, max(0.0, float(top)) + 2
        around = pen.textbbox(place, name, font=font)
        pen.rectangle((around[0] - 1, around[1] - 1, around[2] + 1, around[3] + 1), fill=_PAPER)
        pen.text(place, name, fill=_INK, font=font)


def palette(classes: int, background: int | None) -> list[tuple[int, int, int]]:
    """A colour for each class: hues a golden angle apart, so that neighbours in the list differ; background is grey."""
    colours = []
    for index in range(classes):
        hue, value = index * 0.381966 % 1.0, (0.95, 0.7)[index % 2]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    if background is not None:
        colours[background] = (70, 70, 70)
    return colours


def _mask(
    mask: NDArray[np.integer], unlabelled: NDArray[np.bool_], colours: list[tuple[int, int, int]], height: int
) -> Image.Image:
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    pixels = table[mask.astype(np.uint8)]
    pixels[unlabelled] = _UNLABELLED
    return Image.fromarray(pixels).resize((WIDTH, height), Image.Resampling.NEAREST)


def _boxes(
    ground: Image.Image,
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    masks: NDArray[np.bool_] | None,
    size: tuple[int, int],
    colours: list[tuple[int, int, int]],
) -> Image.Image:
    picture = ground.copy()
    if masks is not None:
        for mask, label in zip(masks, labels, strict=True):
            veil = Image.fromarray(mask.astype(np.uint8) * np.uint8(255 * VEIL)).resize(picture.size)
            picture.paste(colours[int(label)], (0, 0), veil)
    pen = ImageDraw.Draw(picture)
    scale = np.array([ground.width / size[1], ground.height / size[0]] * 2)
    for box, label in zip(boxes * scale, labels, strict=True):
        pen.rectangle([float(edge) for edge in box], outline=colours[int(label)], width=2)
    return picture


def _legend(names: Sequence[str], colours: list[tuple[int, int, int]], width: int) -> Image.Image:
    font = ImageFont.load_default(12)
    places, x, y = [], 2, 2
    for name in names:
        need = 14 + round(font.getlength(name)) + 10
        if x + need > width and x > 2:
            x, y = 2, y + LEGEND_ROW
        places.append((x, y))
        x += need
    legend = Image.new("RGB", (width, y + LEGEND_ROW), _PAPER)
    pen = ImageDraw.Draw(legend)
    for (x, y), name, colour in zip(places, names, colours, strict=True):
        pen.rectangle([x, y + 2, x + 10, y + 12], fill=colour)
        pen.text((x + 14, y), name, fill=_INK, font=font)
    return legend
