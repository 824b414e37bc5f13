"""Weights that lie in Python packages, brought to the names of timm.

* ``dinov2_onnx``: an ONNX graph that Hugging Face's Dinov2 was exported to. Its encoder's initialisers map one to one
  to timm's plain transformer; matrices of a product are stored transposed and named by their node alone.
* ``efficientnet_pytorch``: a state dict of the EfficientNet port whose blocks are counted through.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.checkpoint import WeightsError

_BLOCK = re.compile(r"backbone\.encoder\.layer\.(\d+)\.(.+)")
_PRODUCT = re.compile(r"/?backbone/encoder/layer\.(\d+)/(.+)/MatMul")
_DINOV2: Mapping[str, str] = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
"""Within a block: Hugging Face's name -> timm's; query, key and value are joined apart from these."""
_AROUND: Mapping[str, str] = {
    "backbone.embeddings.cls_token": "cls_token",
    "backbone.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "backbone.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "backbone.layernorm.weight": "norm.weight",
    "backbone.layernorm.bias": "norm.bias",
}
_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-Lite0."""


def convert(form: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a file of a package under timm's names, float32.

    Args:
        form: ``dinov2_onnx`` or ``efficientnet_pytorch``.
        file: as it lies in the package.

    Raises:
        WeightsError: it does not hold what the form says, or what reads it is not installed.
    """
    readers: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
        "dinov2_onnx": lambda path: dinov2(*_onnx(path)),
        "efficientnet_pytorch": lambda path: efficientnet(torch.load(path, map_location="cpu", weights_only=True)),
    }
    return {name: tensor.contiguous() for name, tensor in sorted(readers[form](file).items())}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of names, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def dinov2(initialisers: Mapping[str, Tensor], products: Mapping[str, str]) -> dict[str, Tensor]:
    """A DINOv2 encoder under timm's names.

    Args:
        initialisers: name -> tensor, of the ONNX graph.
        products: name of each product's node -> name of the matrix that it multiplies by.

    Raises:
        WeightsError: something of the encoder is missing.
    """
    found: dict[str, Tensor] = {}
    parts: dict[tuple[int, str], Tensor] = {}
    for name, tensor in initialisers.items():
        if name in _AROUND:
            found[_AROUND[name]] = tensor
        elif match := _BLOCK.fullmatch(name):
            parts[int(match[1]), match[2]] = tensor
    for node, name in products.items():
        if match := _PRODUCT.fullmatch(node):
            parts[int(match[1]), f"{match[2].replace('/', '.')}.weight"] = initialisers[name].T
    depth = 1 + max((block for block, _ in parts), default=-1)
    try:
        for block in range(depth):
            for theirs, ours in _DINOV2.items():
                found[f"blocks.{block}.{ours}"] = parts[block, theirs]
            for kind in ("weight", "bias"):
                joined = [parts[block, f"attention.attention.{one}.{kind}"] for one in ("query", "key", "value")]
                found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(joined)
        found["pos_embed"] = torch.cat(_positions(initialisers, found["cls_token"].shape[-1]), dim=1)
    except KeyError as error:
        raise WeightsError(f"the graph has no {error.args[0]}, so it is no DINOv2 encoder that is known here") from None
    return found


def _positions(initialisers: Mapping[str, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Of the class token, (1, 1, D), and of the grid, (1, N, D): constants that the export split the table into."""
    tables = [
        t for name, t in initialisers.items() if t.ndim == 3 and t.shape[::2] == (1, width) and "token" not in name
    ]
    one = [table for table in tables if table.shape[1] == 1]
    grid = [table for table in tables if table.shape[1] > 1]
    if len(one) != 1 or len(grid) != 1:
        raise WeightsError(
            f"the graph has {len(tables)} tables of positions, where one of a token and one of a grid are known"
        )
    return one[0], grid[0]


def efficientnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An EfficientNet-Lite0 under timm's names, its classifier included.

    Raises:
        WeightsError: its blocks are not those of EfficientNet-Lite0.
    """
    place = [(stage, block) for stage, count in enumerate(_STAGES) for block in range(count)]
    names = {
        "_conv_stem.": "conv_stem.",
        "_bn0.": "bn1.",
        "_conv_head.": "conv_head.",
        "_bn1.": "bn2.",
        "_fc.": "classifier.",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            start = next((start for start in names if name.startswith(start)), "")
            if not start:
                raise WeightsError(f"{name} is in no EfficientNet-Lite0")
            found[names[start] + name.removeprefix(start)] = tensor
            continue
        index, part, rest = int(parts[1]), parts[2], ".".join(parts[3:])
        if index >= len(place):
            raise WeightsError(f"{name} is of a larger EfficientNet; Lite0 has {len(place)} blocks")
        stage, block = place[index]
        # Only the first stage has no expansion before its depthwise convolution, which shifts the counted names by one.
        first = stage == 0
        inner = {
            "_expand_conv": "conv_pw",
            "_bn0": "bn1",
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn1" if first else "bn2",
            "_project_conv": "conv_pw" if first else "conv_pwl",
            "_bn2": "bn2" if first else "bn3",
        }
        if part not in inner:
            raise WeightsError(f"{name} is in no EfficientNet-Lite0")
        found[f"blocks.{stage}.{block}.{inner[part]}.{rest}"] = tensor
    return found


def _onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Initialisers, and for each product the matrix that it multiplies by."""
    onnx = _needed("onnx")
    graph = onnx.load(str(path)).graph
    tensors = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    products = {
        node.name: name
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in tensors and tensors[name].ndim == 2
    }
    return tensors, products


def _needed(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise WeightsError(f"{name} reads this file and is not installed: pip install 'densebench[fetch]'") from error
