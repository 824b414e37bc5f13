"""Tensors by name in a file, and what is known of where they come from.

Files are ``.safetensors``, or ``.pth``, ``.pt`` and ``.bin`` as written by ``torch.save``. Only tensors are read from
the latter: a pickle that wants to run code is refused.
"""

import json
import os
import pickle
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

METADATA = "densebench"
"""Key of the metadata in a .safetensors file: one JSON text, as several keys would be written in a random order."""
KERNELS = ("patch_embed.proj.weight", "conv_proj.weight")
"""How the names of patch kernels end, in timm and in torchvision."""

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Under which key training scripts keep the tensors, averaged weights first, as timm chooses."""
_LISTED = 8


class WeightsError(ValueError):
    """A file of weights is missing, unreadable, refused or does not fit; says what to do."""


@dataclass(frozen=True)
class Native:
    """What tensors do not say about where they come from.

    grid: (h, w) of the position embeddings; None: it was square, or there are none.
    windows: name of a table of relative biases -> its window (h, w); a table that is not named was square.
    mean, std: of the images in training, RGB in 0..1; None: unknown.
    whole: the tensors are those of the library's own full model, so that a module which the backbone lacks as a whole
        was left out on purpose.
    """

    grid: tuple[int, int] | None = None
    windows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    whole: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, on the CPU, as they were published."""

    tensors: Mapping[str, Tensor]
    native: Native = Native()


def read(path: Path) -> Checkpoint:
    """The tensors of a file, whatever a training script wrapped them in.

    Raises:
        WeightsError: no such file, not of a known kind, broken, or a pickle that is more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    # Masks of attention may be infinite; whatever else is computes nothing, and a loss would tell it as its own fault.
    broken = [name for name, tensor in found.tensors.items() if not name.endswith("mask") and not _finite(tensor)]
    if broken:
        raise WeightsError(
            f"{path} is broken: {len(broken)} of its {len(found.tensors)} tensors hold NaN or infinity ({some(broken)})"
        )
    return found


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(
        (tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all()
    )  # of eight bits it asks none


def _read_torch(path: Path) -> Checkpoint:
    try:
        with warnings.catch_warnings():
            # torch warns of pickles that it may not be able to read, which is the next thing to be seen.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: besides tensors it holds Python objects, and loading those would run code that the "
            "file brings along, or it is no checkpoint of torch.save at all. If you trust where it comes from, load it "
            "there and save its tensors alone: safetensors.torch.save_file(checkpoint['model'], 'NAME.safetensors'). "
            f"torch says: {str(error).partition(chr(10))[0][:200]}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint of torch.save: {error}") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__} and not tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name; its keys are {some(map(str, content))}")
    return Checkpoint(tensors)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            noted = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        native = Native(
            grid=_pair(noted.get("grid")),
            windows={name: (int(h), int(w)) for name, (h, w) in noted.get("windows", {}).items()},
            mean=_numbers(noted.get("mean")),
            std=_numbers(noted.get("std")),
        )
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is no whole .safetensors file, or its metadata is broken: {error}") from error
    return Checkpoint(tensors, native)


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def _numbers(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(float(number) for number in value)


def write(tensors: Mapping[str, Tensor], noted: Mapping[str, Any], path: Path) -> None:
    """Tensors as .safetensors, with those fields of `Native` that are known noted in the metadata.

    Equal tensors give equal bytes. The file appears whole or not at all.
    """
    # Own storage each: the format refuses tensors that share one.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        save_file(own, partial, metadata={METADATA: json.dumps(noted, sort_keys=True)})


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; afterwards it takes the place of ``path`` at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        # What writes it may make a private file of it; it gets the mode that any new file has here.
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(stat.S_IMODE(mode))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def some(names: Iterable[str]) -> str:
    """The first names of a list, for an error message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
