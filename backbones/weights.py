"""Weights of backbones: fitted to another patch size or input size, and saved.

A checkpoint is fitted to ``Backbone.published``, whose parameter names are those of the library that published it. What
depends on patch, grid or window is resampled (`backbones.resample`), everything else must be there in the same shape:
a tensor that is missing, unknown or of another shape is an error that lists it, because a backbone that is half random
measures nothing.

Where a checkpoint comes from: `backbones.checkpoint` reads files, `backbones.published` has those of the libraries.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.checkpoint import KERNELS, Checkpoint, Native, WeightsError, some, write
from backbones.contract import Backbone, Window
from backbones.resample import Resampling, patch_kernel, position_map, positions, window_bias

_POSITIONS = ("pos_embed", "pos_embedding")
_TABLE = "relative_position_bias_table"
_COMPUTED = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask|rope\.[^.]+)$")
"""What a model computes from its size, where it is no parameter (the frequencies of a mixed RoPE are learned)."""
_OPTIONAL = re.compile(r"num_batches_tracked$")
_TOP = frozenset(
    ("head", "head_dist", "heads", "fc", "classifier", "pre_logits", "norm", "fc_norm", "attn_pool", "mask_token")
)
"""Modules that follow the blocks or serve pre-training alone: a backbone may lack them."""


class _NoGrid(Exception):
    """The grid of position embeddings cannot be known."""


@dataclass(frozen=True)
class Fitted:
    """A state dict for a backbone, and what of it was resampled: ``"name: (1, 197, 192) -> (1, 1025, 192)"``."""

    tensors: dict[str, Tensor]
    resampled: tuple[str, ...]


def save(body: Backbone, path: Path) -> None:
    """A backbone's weights as .safetensors under the names of its library, for ``weights=PATH`` at any other size.

    Grid, windows and normalisation go into the metadata. Equal weights give equal bytes. The file appears whole or not
    at all.

    Raises:
        WeightsError: ``path`` does not end in .safetensors, or the backbone is on the meta device.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights are saved as .safetensors, {path} came")
    tensors = body.published.state_dict()
    if any(tensor.is_meta for tensor in tensors.values()):
        raise WeightsError("a backbone on the meta device has no weights to save")
    write(tensors, notes(body), path)


def notes(body: Backbone, prefix: str = "") -> dict[str, Any]:
    """What the tensors of a backbone do not say, for `backbones.checkpoint.write`; ``prefix`` is before their names."""
    tensors = body.published.state_dict()
    noted: dict[str, Any] = {
        "mean": [round(float(value), 6) for value in body.mean.flatten()],
        "std": [round(float(value), 6) for value in body.std.flatten()],
        "windows": {prefix + name: _window(body.published, name) for name in sorted(tensors) if name.endswith(_TABLE)},
    }
    if any(name.endswith(_POSITIONS) for name in tensors):
        noted["grid"] = _grid(body)
    return noted


def load(
    body: Backbone, checkpoint: Checkpoint, *, resample: Resampling = "pinv", window: Window = "keep"
) -> tuple[str, ...]:
    """Put a checkpoint's weights into a backbone, whatever its patch and input size; says what was resampled.

    The images' mean and deviation, where the checkpoint says them, replace the backbone's: they belong to the weights.

    Raises:
        WeightsError: see `adapt`.
    """
    fitted = adapt(checkpoint, body, resample=resample, window=window)
    body.published.load_state_dict(fitted.tensors)
    for buffer, values in ((body.mean, checkpoint.native.mean), (body.std, checkpoint.native.std)):
        if values is not None:
            buffer.copy_(torch.tensor(values, device="cpu").view(1, 3, 1, 1))
    return fitted.resampled


@torch.no_grad()
def adapt(checkpoint: Checkpoint, body: Backbone, *, resample: Resampling = "pinv", window: Window = "keep") -> Fitted:
    """A checkpoint's tensors for ``body.published``, as float32.

    Whatever all names of the backbone's tensors have in front ("module.", "backbone.") is cut off, and what does not
    have it belongs to something else. Classifiers are left out. Buffers that a model computes from its size stay the
    backbone's own.

    Args:
        checkpoint: see `backbones.checkpoint.read`; nothing in it is changed.
        body: the backbone, on a device with storage.
        resample: of patch kernels.
        window: why a window is smaller than the published one, see `backbones.resample.window_bias`.

    Raises:
        WeightsError: tensors are missing, unknown, of a shape that cannot be resampled, or hold integers where weights
            belong; lists the first of each.
    """
    published = body.published
    wanted = published.state_dict()
    learned = {name for name, _ in published.named_parameters()}
    prefix = _prefix(checkpoint.tensors, wanted)
    given = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    windows = {name.removeprefix(prefix): sides for name, sides in checkpoint.native.windows.items()}
    native = replace(checkpoint.native, windows=windows)
    _refuse_integers(given, wanted)
    tensors: dict[str, Tensor] = {}
    missing: list[str] = []
    unfit: list[str] = []
    resampled: list[str] = []
    # A default device, set by whoever builds the model, would otherwise receive half of the intermediate tensors.
    with torch.device("cpu"):
        for name, target in wanted.items():
            if (_COMPUTED.search(name) and name not in learned) or (_OPTIONAL.search(name) and name not in given):
                tensors[name] = target
            elif name not in given:
                missing.append(name)
            else:
                tensor = given[name]
                if tensor.is_floating_point():
                    tensor = tensor.to(torch.float32)
                shape = tuple(tensor.shape)
                try:
                    fitted = _fit(name, tensor, target, body, native, resample, window)
                except _NoGrid as error:
                    unfit.append(f"{name} {shape} for {tuple(target.shape)} ({error})")
                    continue
                if fitted is None or fitted.shape != target.shape:
                    unfit.append(f"{name} {shape} for {tuple(target.shape)}")
                    continue
                if fitted is not tensor:
                    resampled.append(f"{name}: {shape} -> {tuple(fitted.shape)}")
                tensors[name] = fitted
    strange = [name for name in given if name not in wanted and not _left_out(name, wanted, whole=native.whole)]
    if missing or strange or unfit:
        parts = [
            f"{len(names)} {what}: {some(names)}"
            for what, names in (
                ("missing", missing),
                ("unknown", strange),
                ("of a shape that cannot be resampled", unfit),
            )
            if names
        ]
        raise WeightsError(
            f"these weights are not those of this {type(body).__name__} with {len(wanted)} tensors; {'; '.join(parts)}"
        )
    return Fitted(tensors, tuple(resampled))


def _refuse_integers(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Quantised weights mean nothing without their scales, and would be taken for numbers as they are."""
    held = {name: tensor.dtype for name, tensor in given.items() if name in wanted and not tensor.is_floating_point()}
    odd = [
        f"{name} ({dtype})".replace("torch.", "") for name, dtype in held.items() if wanted[name].is_floating_point()
    ]
    if odd:
        raise WeightsError(
            f"weights are floating-point numbers, and {len(odd)} of these {len(given)} tensors hold others: "
            f"{some(odd)}; save them as float32"
        )


def _fit(
    name: str, tensor: Tensor, target: Tensor, body: Backbone, native: Native, resample: Resampling, window: Window
) -> Tensor | None:
    """A tensor at the size of its target, itself where nothing depends on size; None: it cannot be."""
    if name.endswith(KERNELS) and tensor.ndim == target.ndim == 4 and tensor.shape[:2] == target.shape[:2]:
        return patch_kernel(tensor, (target.shape[2], target.shape[3]), resample)
    if name.endswith(_POSITIONS) and tensor.ndim == target.ndim:
        return _fit_positions(tensor, target, body, native)
    if name.endswith(_TABLE) and tensor.ndim == target.ndim:
        return _fit_table(name, tensor, target, body, native, window)
    return tensor


def _fit_positions(tensor: Tensor, target: Tensor, body: Backbone, native: Native) -> Tensor | None:
    if tensor.shape[-1] != target.shape[-1]:
        return None
    if tensor.ndim == 4:
        return position_map(tensor, (target.shape[1], target.shape[2]))
    grid = _grid(body)
    prefix = target.shape[1] - grid[0] * grid[1]
    count = tensor.shape[1] - prefix
    if tensor.ndim != 3 or prefix < 0 or count < 1:
        return None
    side = math.isqrt(count)
    if native.grid is not None and native.grid[0] * native.grid[1] == count:
        old = native.grid
    elif side * side == count:
        old = (side, side)
    else:
        raise _NoGrid(
            f"{count} positions beside {prefix} tokens without a place are no square grid, and the file does not say "
            "which one they are; backbones.weights.save writes files that do"
        )
    return positions(tensor, old, grid, prefix=prefix)


def _fit_table(
    name: str, tensor: Tensor, target: Tensor, body: Backbone, native: Native, window: Window
) -> Tensor | None:
    if tensor.ndim == 3:  # (heads, 2h-1, 2w-1), of MaxViT
        if tensor.shape == target.shape or tensor.shape[0] != target.shape[0]:
            return tensor
        old, new = (((t.shape[1] + 1) // 2, (t.shape[2] + 1) // 2) for t in (tensor, target))
        return window_bias(tensor.flatten(1).T, old, new, window).T.reshape(target.shape)
    if tensor.ndim != 2 or tensor.shape[1] != target.shape[1]:
        return None
    new = _window(body.published, name)
    if new is None:
        return tensor
    extra = len(target) - (2 * new[0] - 1) * (2 * new[1] - 1)
    old = native.windows.get(name)
    if old is None:
        side = math.isqrt(max(0, len(tensor) - extra))
        if side * side + extra != len(tensor) or side % 2 == 0:
            return None
        old = ((side + 1) // 2, (side + 1) // 2)
    return window_bias(tensor, old, new, window)


def _grid(body: Backbone) -> tuple[int, int]:
    """(h, w) of the tokens that the first block works on, from the contract alone."""
    height, width = body.size
    cell = math.sqrt(height * width / body.tokens)
    return round(height / cell), round(width / cell)


def _window(published: nn.Module, name: str) -> tuple[int, int] | None:
    """The window (h, w) that a table of relative biases is for; None: its module does not say."""
    # timm and torchvision both keep it in this attribute, beside the table.
    sides = getattr(published.get_submodule(name.rpartition(".")[0]), "window_size", None)
    return (int(sides[0]), int(sides[1])) if isinstance(sides, (tuple, list)) else None


def _prefix(given: Iterable[str], wanted: Collection[str]) -> str:
    """What stands before the names of a backbone's tensors in a checkpoint: the one text that most of them have.

    Raises:
        WeightsError: two texts are in front of equally many (a teacher and a student, say).
    """
    count: dict[str, int] = {}
    for name in given:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                before = "".join(f"{part}." for part in parts[:start])
                count[before] = count.get(before, 0) + 1
    if not count:
        return ""
    best, *others = sorted(count, key=lambda before: (-count[before], len(before)))
    if others and count[others[0]] == count[best] and count[best] > len(wanted) / 2:
        raise WeightsError(
            f"the file holds {count[best]} tensors of this backbone twice, under '{best}' and '{others[0]}'; save the "
            "ones that are wanted alone"
        )
    return best


def _left_out(name: str, wanted: Iterable[str], *, whole: bool) -> bool:
    """Whether a backbone may lack this tensor of the published model."""
    if _COMPUTED.search(name):
        return True
    parts = name.split(".")
    if parts[0] in _TOP:
        return True
    if not whole:
        return False
    if len(parts) == 1:  # CaiT's class token, which comes in after the blocks
        return True
    # Near the root alone, and by name: a body that lacks "blocks.11" or "blocks.0.attn.q_norm" is another network.
    modules = (
        ".".join(parts[:depth]) + "." for depth in (1, 2) if depth < len(parts) and not parts[depth - 1].isdigit()
    )
    return any(not any(other.startswith(module) for other in wanted) for module in modules)
