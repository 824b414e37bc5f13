"""A network as ONNX, which several runtimes read."""

import tempfile
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE, IMAGE = "model.onnx", "image"
OPSET = 20
"""Of ONNX; both runtimes that read it here know it, and it has what torch's exporter translates to."""


def to_onnx(network: nn.Module, inputs: Sequence[Tensor], path: Path) -> Path:
    """Write a network of these inputs, of the shapes that they have; the file. Its first input is called ``image``."""
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        given = tuple(one.clone() for one in inputs)
        program = torch.onnx.export(
            network, given, dynamo=True, opset_version=OPSET, verbose=False, input_names=[IMAGE]
        )
        assert program is not None, "as dynamo gives one"
        program.save(path, external_data=False)
    return path


def join(path: Path, decoding: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Put the decoding of what a file gives behind it, in place.

    Args:
        path: of the file.
        decoding: of its outputs, in their order.
        tensors: examples of them.
    """
    onnx: Any = import_module("onnx")
    compose: Any = import_module("onnx.compose")
    with tempfile.TemporaryDirectory(prefix="densebench-") as folder:
        behind = onnx.load(to_onnx(decoding, tensors, Path(folder) / FILE))
    first = onnx.load(path)
    behind.ir_version = first.ir_version = max(behind.ir_version, first.ir_version)
    behind = compose.add_prefix(behind, "decoding_")
    pairs = zip([one.name for one in first.graph.output], [one.name for one in behind.graph.input], strict=True)
    outputs = [one.name for one in behind.graph.output]
    onnx.save(compose.merge_models(first, behind, io_map=list(pairs), outputs=outputs), path)
