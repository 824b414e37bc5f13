"""From names to a ready model: the one place where a backbone meets a head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import timm
import torch
from torchvision.models import WeightsEnum, get_model_weights

from backbones.checkpoint import Checkpoint, WeightsError, read
from backbones.contract import Attention, Backbone, Unsupported, Window
from backbones.published import of_timm, of_torchvision
from backbones.resample import Resampling
from backbones.weights import load
from bench import catalogue
from bench.cache import cache_folder
from bench.catalogue import Entry
from bench.errors import UserError
from bench.plan import weights as naming
from bench.plan.case import Case
from bench.plan.cell import Cell
from heads.contract import Head, Model, reads


def build(
    backbone: str,
    head: str,
    *,
    patch: int | None = None,
    size: tuple[int, int],
    classes: int,
    weights: str | WeightsEnum = "random",
    resample: Resampling = "pinv",
    attention: Attention = "auto",
    window: Window = "keep",
    padding: Literal["refuse", "pad"] = "refuse",
) -> Model:
    """A backbone under a head as one nn.Module, in train mode, on the current default device.

    Args:
        backbone: a name of ``densebench list backbones``.
        head: a name of ``densebench list heads``.
        patch: patch size in pixels; None for the backbone's native one.
        size: (H, W) of the input in pixels.
        classes: K of the head (for segmentation with the background, for detection without).
        weights: of the backbone. "random": initialised from torch's global generator, as the head always is;
            "pretrained", "pretrained:TAG" or a member of a torchvision enumeration: published ones, fetched once
            unless they lie in the cache folder; "package:NAME": those of a Python package (``densebench fetch``);
            "trained:DIGEST": those of a kept model in the folder ``results`` (`bench.plan.models`); or the path of a
            file, whose images are normalised as it says, else as the entry's published weights, else (nobody has
            published any) with ImageNet's mean and deviation. See `bench.plan.weights`, `backbones.published`,
            `backbones.weights`.
        resample: of pretrained patch kernels to another patch size, see `backbones.resample.patch_kernel`.
        attention: kernel, see `backbones.contract.Attention`.
        window: of windowed attention, see `backbones.contract.Window`.
        padding: "pad": a size that the backbone cannot take is padded to the next that it can (see
            `heads.contract.Model`), never cropped; "refuse": it is an error.

    Returns:
        RGB (B, 3, H, W) in 0..1 -> raw outputs; ``.loss(raw, target)`` and ``.decode(raw, size)`` go with it. Under
        ``with torch.device("meta"):`` it has shapes and no storage, and no weights are read.

    Raises:
        UserError: an unknown name or number of classes; weights that are unknown, do not fit or cannot be fetched.
        Unsupported: this backbone cannot have this patch size or input size (the text names the nearest possible), or
            nobody has published weights of it.
    """
    if classes < 1:
        raise UserError(f"a head needs at least 1 class and got classes={classes}")
    entry = catalogue.get("backbones", backbone)
    return _build(
        entry,
        catalogue.get("heads", head),
        patch=entry.facts["patch"] if patch is None else patch,
        size=size,
        classes=classes,
        weights=_text(weights, entry),
        resample=resample,
        attention=attention,
        window=window,
        padding=padding,
    )


def _build(
    entry: Entry,
    head: Entry,
    *,
    patch: int,
    size: tuple[int, int],
    classes: int,
    weights: str,
    resample: Resampling,
    attention: Attention,
    window: Window,
    padding: Literal["refuse", "pad"],
    trained: Path | None = None,
) -> Model:
    """See `build`; of entries of the catalogue, and with the file of a kept model."""
    height, width = size  # from a list as well as from a tuple

    def encoder(size: tuple[int, int]) -> Backbone:
        with _of("patch", "resolution"):
            return entry.load().build(entry.name, patch=patch, size=size, attention=attention, window=window)

    try:
        body = encoder((height, width))
    except Unsupported as error:
        larger = [(h, w) for h, w in error.nearest if h >= height and w >= width]
        if padding != "pad" or not larger:
            raise
        body = encoder(min(larger))
    if weights != naming.RANDOM:
        with _of("weights"):
            _start(body, entry, weights, trained, resample, window)
    with _of("head"):
        body.expose(reads(body.levels, head.facts.get("reads", "all")))
        top: Head = head.load().build(head.name, levels=body.levels, classes=classes)
        if catalogue.normed({"backbone": entry.name, "head": head.name}):
            body.norm_levels(_read_by(top, len(body.levels)))
        return Model(body, top, (height, width))


def _read_by(head: Head, count: int) -> tuple[int, ...]:
    """Indices of the levels that a head makes use of: what chooses among them states its ``sources``."""
    stated = [sources for one in head.modules() if isinstance(sources := getattr(one, "sources", None), tuple)]
    return tuple(sorted({index for sources in stated for index in sources})) if stated else tuple(range(count))


@contextmanager
def _of(*axes: str) -> Iterator[None]:
    """What is refused within it is for the values of these axes, unless it says itself for which."""
    try:
        yield
    except Unsupported as error:
        error.axes = error.axes or axes
        raise


def _text(weights: str | WeightsEnum, entry: Entry) -> str:
    """Weights as an axis of a matrix writes them."""
    if not isinstance(weights, WeightsEnum):
        return naming.check(weights)
    source = naming.source(entry, f"{naming.PRETRAINED}:{weights.name}", cache_folder())
    if source is None or source.library != "torchvision":
        raise UserError(f"{weights!s} are weights of torchvision, and {entry.name} is no backbone of torchvision")
    if not isinstance(weights, wanted := get_model_weights(source.architecture)):
        raise UserError(f"{weights!s} are not the weights of {entry.name}; take a member of {wanted.__name__}")
    return f"{naming.PRETRAINED}:{weights.name}"


def _start(
    body: Backbone, entry: Entry, weights: str, trained: Path | None, resample: Resampling, window: Window
) -> None:
    """Load weights that are not random; on the meta device only see that there are any.

    Raises:
        UserError, Unsupported: see `build`.
    """
    source = naming.source(entry, weights, cache_folder(), trained)
    if source is None:
        raise Unsupported(f"nobody has published weights of {entry.name}; take weights='random' or the path of a file")
    if any(parameter.is_meta for parameter in body.parameters()):
        return
    try:
        if source.library == "file":
            checkpoint = _as_trained(read(source.path), entry)
        elif source.library == "trained":
            checkpoint = read(source.path)
        elif source.library == "package":
            if not source.path.is_file():  # asked here, for to count a model needs none
                fetch_it = f"densebench fetch {weights.removeprefix(naming.PACKAGE)}"
                raise UserError(f"weights {weights} are not in {cache_folder()}: {fetch_it}")
            checkpoint = read(source.path)
            checkpoint = replace(checkpoint, native=replace(checkpoint.native, whole=True))
        else:
            fetch = of_timm if source.library == "timm" else of_torchvision
            checkpoint = fetch(source.architecture, source.tag, source.path)
        load(body, checkpoint, resample=resample, window=window)
    except WeightsError as error:
        raise UserError(f"{entry.name} with weights '{weights}': {error}") from error


def _as_trained(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:
    """A file that does not say how its images were normalised: as those of the entry's own published weights."""
    architecture, tag = entry.facts.get("timm"), entry.facts.get("tag")
    if checkpoint.native.mean is not None or not architecture or not tag:
        return checkpoint
    published = timm.get_pretrained_cfg(f"{architecture}.{tag}")
    if published is None:
        return checkpoint
    native = replace(checkpoint.native, mean=published.mean, std=published.std)
    return replace(checkpoint, native=native)


def of_case(case: Case) -> Model:
    """The model of a cell on the default device; what is random in it comes from the cell's seed.

    Raises:
        UserError, Unsupported: see `build`.
    """
    cell = case.cell
    torch.manual_seed(cell.seed)
    return _build(
        case.backbone,
        case.head,
        patch=cell.patch,
        size=cell.size,
        classes=len(case.classes),
        weights=cell.weights,
        resample=cell.resample,  # pyright: ignore[reportArgumentType] - checked by the matrix
        attention=cell.attention,  # pyright: ignore[reportArgumentType] - checked by the matrix
        window=cell.window,  # pyright: ignore[reportArgumentType]
        padding=cell.padding,  # pyright: ignore[reportArgumentType]
        trained=case.trained,
    )


def device_of(cell: Cell) -> torch.device:
    """The cell's device, if this machine has it, made the current one of this process.

    Events are recorded, and graphs captured, on a stream of the current device, whatever device their tensors are on:
    those of ``cuda:1`` would otherwise time an idle ``cuda:0``.

    Raises:
        Unsupported: torch sees no such device here.
    """
    device = torch.device(cell.device)
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if here is None or here.type != device.type:
        raise Unsupported(f"device {cell.device} is wanted and torch {torch.__version__} sees {here or 'only the CPU'}")
    if device.index is not None:
        if device.index >= (count := torch.accelerator.device_count()):
            raise Unsupported(f"device {cell.device} is wanted and torch sees {count} of this kind, counted from 0")
        torch.accelerator.set_device_index(device.index)
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it; on a CPU that is already so."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
