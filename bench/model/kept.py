"""Trained models that are kept: written beside the records, and opened again."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from backbones.checkpoint import read, write
from backbones.weights import notes
from bench.errors import UserError
from bench.model.build import build
from bench.plan import models
from bench.plan.case import Case
from bench.plan.environment import installed
from heads.contract import Model


def keep(net: Model, case: Case, folder: Path) -> str:
    """Write a trained model as float32 to ``<folder>/<digest>.safetensors``, whole or not at all; its digest.

    Equal weights of equal cells give equal bytes, and so one file.

    Raises:
        OSError: the folder cannot be written to.
    """
    data = case.split("train")
    name = next(name for name, module in net.named_modules() if module is net.backbone.published)
    facts = models.noted(
        asdict(case.cell),
        case.recipe,
        classes=data.classes,
        background=data.background,
        task=net.task,
        version=installed("densebench"),
    )
    # Exactly, not rounded as they are for a backbone alone.
    looks = {"mean": net.backbone.mean.flatten().tolist(), "std": net.backbone.std.flatten().tolist()}
    tensors = {key: _plain(tensor) for key, tensor in net.state_dict().items()}
    fresh = folder / f".{os.getpid()}{models.ENDING}"
    try:
        write(tensors, {**notes(net.backbone, f"{name}."), **looks, **facts}, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        digest = models.sha256(fresh)[: models.DIGITS]
        fresh.replace(folder / f"{digest}{models.ENDING}")
    except SafetensorError as error:  # of what the disk says
        raise OSError(str(error)) from error
    finally:
        fresh.unlink(missing_ok=True)
    return digest


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def load_model(name: str | Path, results: Path | str = models.RESULTS) -> Model:
    """A kept model as it was trained, in float32 and in evaluation mode, on the CPU.

    ``model.classes`` names its classes; ``model.decode(model(image), size)`` predicts for RGB images (B, 3, H, W) in
    0..1 of ``model.size``.

    Args:
        name: the beginning of its digest (``densebench models``), or the path of its file.
        results: folder in which digests are looked for.

    Raises:
        UserError: there is no such model, it is damaged, or this densebench builds another network for its cell.
    """
    return of(models.opened(name, (Path(results),)))


def of(kept: models.Kept) -> Model:
    """See `load_model`."""
    cell = kept.cell
    choices: dict[str, Any] = {
        "patch": cell.patch,
        "resample": cell.resample,
        "attention": cell.attention,
        "window": cell.window,
        "padding": cell.padding,
    }
    checkpoint = read(kept.path)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        net = build(cell.backbone, cell.head, size=cell.size, classes=len(kept.classes), **choices)
        if kept.recipe.aux_heads:
            net.head.set_auxiliary()
        if not any(name.startswith("backbone.norms.") for name in checkpoint.tensors):
            net.backbone.norms = None  # kept before the levels of its backbone had any
    try:
        net.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        raise UserError(
            f"{kept.path} does not fit {cell.title()} as this densebench builds it: {str(error)[:300]}"
        ) from error
    for buffer, values in ((net.backbone.mean, checkpoint.native.mean), (net.backbone.std, checkpoint.native.std)):
        if values is not None:
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
    net.classes = kept.classes
    return net.eval()
