"""Reading and resizing of pictures and label maps, shared by the data sets that lie on disk.

Sizes are (H, W) in pixels; images are (H, W, 3) uint8 RGB; label maps are (H, W) uint8. Whatever cannot be read is a
`DataError` that names the file.

EXIF orientation is ignored on purpose: VOC, COCO and the label maps of CamVid give their labels in the order in which
the pixels are stored, so turning a picture upright would turn it away from its labels.
"""

import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from os import scandir
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.contract import IGNORE, Sample, Truth
from bench.errors import DataError

Size: TypeAlias = tuple[int, int]
"""(H, W) in pixels."""

Colour: TypeAlias = tuple[int, int, int]
"""(R, G, B), each 0..255."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
CACHE_BYTES = 1 << 30
"""Default bound of a `SampleCache`: about 1400 samples of 360 x 480 with a mask."""

# Everything that Pillow's decoders were seen to raise on a damaged file. Its PNG reader really uses SyntaxError.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's image, not decoded yet; an error while it is opened or decoded becomes a `DataError`."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise DataError(message) from error
    except _UNREADABLE as error:
        message = f"{path}: cannot be read as an image ({error}); is the file damaged or only half copied?"
        raise DataError(message) from error


def read_image(path: Path, enough: Size | None = None) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 RGB, in stored pixel order.

    With ``enough`` (H, W) a larger picture comes at a half, a quarter, ... of its size that is no less on either side
    and whole pixels. JPEGs are then decoded at that size, in a fraction of the time; others are averaged.

    Grey-scale, palette and CMYK pictures are converted; transparency is dropped, not blended, since there is no
    background to blend with; 16-bit grey keeps its upper eight bits.
    """
    with _opened(path) as image:
        if image.mode in {"I", "F"}:
            message = f"{path}: pixels of kind '{image.mode}' have no known range; want 8 or 16 bits a channel"
            raise DataError(message)
        factor, height = _reduction((image.height, image.width), enough), image.height
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))  # does nothing to what is no JPEG
        left = factor * image.height // height
        rgb: Image.Image = image
        if image.mode.startswith("I;16"):
            # Pillow's own conversion clips at 255 and would turn nearly all of the picture white.
            rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        elif image.mode == "P" and "transparency" in image.info:
            # Straight to RGB, Pillow warns that the transparency is lost; it is meant to be.
            rgb = image.convert("RGBA").convert("RGB")
        elif image.mode != "RGB":
            rgb = image.convert("RGB")
        return np.array(rgb.reduce(left) if left > 1 else rgb)  # what does nothing would copy all the same


def _reduction(size: Size, enough: Size | None) -> int:
    """The largest power of two that divides both sides and leaves them ``enough``.

    A side that it does not divide would end within a pixel, and labels beside it would no longer fit.
    """
    if enough is None:
        return 1
    factor, pairs = 2, list(zip(size, enough, strict=True))
    while all(side % factor == 0 and side >= factor * least for side, least in pairs):
        factor *= 2
    return factor // 2


def image_size(path: Path) -> Size:
    """(H, W) from the file's header; the pixels are not decoded."""
    with _opened(path) as image:
        return image.height, image.width


def read_labels(path: Path, colours: Mapping[Colour, int] | None = None) -> NDArray[np.uint8]:
    """Read a label map as (H, W) uint8, the stored indices: a palette is *not* applied.

    Args:
        path: a PNG of palette indices or grey levels.
        colours: index of each colour, for label maps stored as RGB; without it those are a `DataError`.

    """
    with _opened(path) as image:
        if image.mode in {"RGB", "RGBA"}:
            if colours is None:
                message = (
                    f"{path}: a coloured label map (mode {image.mode}); want a palette or grey-scale PNG whose pixel "
                    "values are class indices"
                )
                raise DataError(message)
            return _labels_of_colours(path, np.array(image.convert("RGB")), colours)
        if image.mode not in {"1", "L", "P"} and not image.mode.startswith("I"):
            message = f"{path}: a label map of mode {image.mode}; want a palette or grey-scale PNG of class indices"
            raise DataError(message)
        values = np.array(image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.size and (values.min() < 0 or values.max() > IGNORE):
        worst = values.max() if values.max() > IGNORE else values.min()
        message = f"{path}: label {worst} is out of range; labels are 0 to {IGNORE}"
        raise DataError(message)
    return values.astype(np.uint8) // np.uint8(_grey_step(path))


def _grey_step(path: Path) -> int:
    """Return what Pillow multiplied the stored grey levels by: it stretches 2- and 4-bit grey to 0..255.

    PNG optimisers store label maps of few classes in so few bits; label 3 would come back as 51 or 255.
    """
    with path.open("rb") as file:
        header = file.read(26)
    if not header.startswith(b"\x89PNG"):
        return 1
    depth, colour_type = header[24], header[25]
    return {2: 85, 4: 17}.get(depth, 1) if colour_type == 0 else 1


def _labels_of_colours(path: Path, rgb: NDArray[np.uint8], colours: Mapping[Colour, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 colours to (H, W) uint8 indices."""
    wide = rgb.astype(np.int32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    known = np.array(sorted(red << 16 | green << 8 | blue for red, green, blue in colours), dtype=np.int32)
    index = np.array([colours[int(code) >> 16, int(code) >> 8 & 255, int(code) & 255] for code in known], np.uint8)
    place = np.minimum(np.searchsorted(known, packed), len(known) - 1)
    strange = known[place] != packed
    if strange.any():
        code = int(packed[strange][0])
        message = f"{path}: colour {code >> 16},{code >> 8 & 255},{code & 255} is the colour of no class"
        raise DataError(message)
    return index[place]


def resize_image(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """(h, w, 3) to (H, W, 3) uint8, bilinear with antialiasing, stretched where the shape is another."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """(h, w) to (H, W) uint8, the label of the nearest pixel centre: labels are never mixed."""
    if mask.shape == size:
        return mask
    height, width = size
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def resize_masks(masks: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """(M, h, w) to (M, H, W) bool: each pixel as the one that its centre falls in, as in `resize_mask`."""
    if masks.shape[1:] == size:
        return masks
    rows, columns = (
        ((np.arange(to) + 0.5) * (of / to)).astype(np.intp) for of, to in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows[:, None], columns]


def mask_truth(mask: NDArray[np.uint8]) -> Truth:
    """Wrap a (H, W) uint8 mask as the `Truth` of a segmentation data set."""
    height, width = mask.shape
    return Truth(
        size=(height, width),
        mask=mask,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        ignore=np.zeros(0, np.bool_),
    )


def stretch(image: NDArray[np.uint8], truth: Truth, size: Size) -> Sample:
    """Image (h, w, 3) and its labels, both brought to ``size`` (H, W)."""
    scale_y, scale_x = size[0] / truth.size[0], size[1] / truth.size[1]
    return Sample(
        image=resize_image(image, size),
        truth=Truth(
            size=size,
            mask=None if truth.mask is None else resize_mask(truth.mask, size),
            boxes=truth.boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32),
            labels=truth.labels,
            ignore=truth.ignore,
            masks=None if truth.masks is None else resize_masks(truth.masks, size),
        ),
    )


class SampleCache:
    """The samples used last, at the size that was asked for, up to a number of bytes: later epochs decode nothing.

    Samples are copied on the way out, so a caller may change what it gets. Threads may share it. A pickled copy, as a
    worker process gets it, starts out empty.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """``limit``: bytes of arrays kept at most."""
        self.limit = limit
        self.used = 0
        self._samples: OrderedDict[Hashable, Sample] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["SampleCache"], tuple[int]]:
        return SampleCache, (self.limit,)

    def __len__(self) -> int:
        """Return the number of samples kept."""
        return len(self._samples)

    def get(self, key: Hashable, make: Callable[[], Sample], *, copy: bool = True) -> Sample:
        """Return the sample kept under ``key``, ``make()`` where there is none; without a copy it is to be left as is.

        Threads that want the same at the same time may each make it.
        """
        with self._lock:
            kept = self._samples.get(key)
            if kept is not None:
                self._samples.move_to_end(key)
        if kept is None:
            kept = make()  # outside the lock: decoding is the slow part, and threads should share it
            with self._lock:
                self._keep(key, kept)
        return _copy(kept) if copy else kept

    def _keep(self, key: Hashable, sample: Sample) -> None:
        cost = _bytes(sample)
        if cost > self.limit or key in self._samples:  # the second: another thread was faster
            return
        while self.used + cost > self.limit:
            _, oldest = self._samples.popitem(last=False)
            self.used -= _bytes(oldest)
        self._samples[key] = sample
        self.used += cost


def _bytes(sample: Sample) -> int:
    truth = sample.truth
    arrays = (sample.image, truth.mask, truth.boxes, truth.labels, truth.ignore, truth.masks)
    return sum(array.nbytes for array in arrays if array is not None)


def _copy(sample: Sample) -> Sample:
    truth = sample.truth
    return Sample(
        image=sample.image.copy(),
        truth=Truth(
            size=truth.size,
            mask=None if truth.mask is None else truth.mask.copy(),
            boxes=truth.boxes.copy(),
            labels=truth.labels.copy(),
            ignore=truth.ignore.copy(),
            masks=None if truth.masks is None else truth.masks.copy(),
        ),
    )


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Stem -> name of the files in ``folder`` with one of the lower-case ``suffixes``, sorted by stem.

    Reads the folder once, opens nothing and makes no paths, which would take most of the time. Hidden files are left
    out: macOS archives bring a ``._name.png`` for each ``name.png``.
    """
    with scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    found: dict[str, str] = {}
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot + ending.lower() not in suffixes:
            continue
        if stem in found:
            message = f"{folder}: {found[stem]} and {name} share one name; which is the image? Remove one"
            raise DataError(message)
        found[stem] = name
    return dict(sorted(found.items()))


def first_few(names: Collection[str], count: int = 3) -> str:
    """Write ``a, b, c, ...`` for a message."""
    shown = sorted(names)[:count]
    return ", ".join(shown) + (", ..." if len(names) > count else "")
