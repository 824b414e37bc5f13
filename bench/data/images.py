"""Reading and resizing of pictures and label maps, shared by the data sets that lie on disk.

Sizes are (H, W) in pixels; images are (H, W, 3) uint8 RGB; label maps are (H, W) uint8. Whatever cannot be read is a
`DataError` that names the file.

A picture is read in the order in which its pixels are stored unless the caller wants it upright, as its EXIF says it is
to be shown: labels are made in one of the two frames, and only they tell which (`bench.data._pictures`).
"""

import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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

CACHE_BYTES = 1 << 30
"""Default bound of a `SampleCache`: about 1400 samples of 360 x 480 with a mask."""

PIXELS = 178_956_970
"""Of a picture; what claims more is an attack or a mosaic. Where Pillow would refuse by its own choice, too."""
Image.MAX_IMAGE_PIXELS = None  # or it would warn of pictures of half as many, which satellites take

# Everything that Pillow's decoders were seen to raise on a damaged file. Its PNG reader really uses SyntaxError.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


_ORIENTATION = 0x0112
"""The EXIF tag: 1 is upright as stored, 2 to 4 are mirrored or upside down, 5 to 8 lie on their side."""
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what turns the stored pixels upright."""


@dataclass(frozen=True)
class Header:
    """What a picture's file says before its pixels: ``size`` (H, W) as stored, and its EXIF orientation, 1 to 8."""

    size: Size
    orientation: int = 1

    @property
    def upright(self) -> Size:
        """(H, W) when it is turned as its EXIF says."""
        height, width = self.size
        return (height, width) if self.orientation < 5 else (width, height)


def stored(header: Header) -> bool:
    """Leave a picture as it is stored, whatever its header says: never turn it upright."""
    del header
    return False


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's image, not decoded yet; an error while it is opened or decoded becomes a `DataError`."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXELS:
                message = (
                    f"{path}: {image.height} x {image.width} pixels are more than {PIXELS / 1e6:.0f} million, the most "
                    "of one picture; cut it into tiles"
                )
                raise DataError(message)
            yield image
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise DataError(message) from error
    except _UNREADABLE as error:
        why = "0 bytes" if path.is_file() and not path.stat().st_size else error
        message = f"{path}: cannot be read as an image ({why}); is the file damaged or only half copied?"
        raise DataError(message) from error


def read_image(path: Path, turn: Callable[[Header], bool] = stored, enough: Size | None = None) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 RGB, in stored pixel order unless ``turn`` wants it upright.

    With ``enough`` (H, W) a larger picture comes at a half, a quarter, ... of its size that is no less on either side
    and whole pixels. JPEGs are then decoded at that size, in a fraction of the time; others are averaged.

    Grey-scale, palette and CMYK pictures are converted; transparency is dropped, not blended, since there is no
    background to blend with; 16-bit grey keeps its upper eight bits.
    """
    with _opened(path) as image:
        if image.mode in {"I", "F"}:
            message = f"{path}: pixels of kind '{image.mode}' have no known range; want 8 or 16 bits a channel"
            raise DataError(message)
        header = _header(image)
        turned = header.orientation != 1 and turn(header)
        lying = turned and header.size != header.upright
        factor = _reduction(header.size, (enough[1], enough[0]) if enough and lying else enough)
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))  # does nothing to what is no JPEG
        left = factor * image.height // header.size[0]
        shown: Image.Image = image.transpose(_TURN[header.orientation]) if turned else image
        if shown.mode.startswith("I;16"):
            # Pillow's own conversion clips at 255 and would turn nearly all of the picture white.
            shown = Image.fromarray((np.asarray(shown) >> 8).astype(np.uint8)).convert("RGB")
        elif shown.mode == "P" and "transparency" in shown.info:
            # Straight to RGB, Pillow warns that the transparency is lost; it is meant to be.
            shown = shown.convert("RGBA").convert("RGB")
        elif shown.mode != "RGB":
            shown = shown.convert("RGB")
        return np.array(shown.reduce(left) if left > 1 else shown)  # what does nothing would copy all the same


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


def read_header(path: Path, *, whole: bool = False) -> Header:
    """Read a picture's header; ``whole`` looks at the end of the file too, and so finds one that is cut off.

    The pixels are not decoded where the file ends as a JPEG or PNG does. Where it does not (some cameras append data of
    their own), and in other formats, only decoding tells whether it is whole. Damage in the middle is not found.
    """
    with _opened(path) as image:
        header = _header(image)
        if whole and not _ends_well(path, image.format):
            image.load()
    return header


def _header(image: Image.Image) -> Header:
    # Pillow turns a TIFF by itself.
    exif = b"" if image.format == "TIFF" else image.info.get("exif", b"")
    return Header((image.height, image.width), _orientation(exif.removeprefix(b"Exif\0\0")))


def _orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 where it says none or is broken, which is no fault of the picture.

    Pillow would read all of the block, and warn of whatever is wrong in it.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == _ORIENTATION:
                return value if value in _TURN else 1
    return 1


def _ends_well(path: Path, kind: str | None) -> bool:
    """Whether a file's last bytes are those of a whole JPEG or PNG."""
    end = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}.get(kind or "")
    if end is None:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(end)))
        return file.read() == end


def read_labels(path: Path, colours: Mapping[Colour, int] | None = None) -> NDArray[np.uint8]:
    """Read a label map as (H, W) uint8, the stored indices: a palette is *not* applied.

    Args:
        path: a PNG of palette indices or grey levels.
        colours: index of each colour, for label maps stored as RGB; without it those are a `DataError`, unless their
            three channels agree: that is a grey-scale map in three copies.

    """
    with _opened(path) as image:
        if image.mode in {"RGB", "RGBA"}:
            if colours is None:
                rgb = np.array(image.convert("RGB"))
                if (rgb == rgb[..., :1]).all():
                    return rgb[..., 0].copy()
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
