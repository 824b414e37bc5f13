"""A network as ONNX, which several runtimes read."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

FILE = "model.onnx"
OPSET = 20
"""Of ONNX; both runtimes that read it here know it, and it has what torch's exporter translates to."""


def to_onnx(network: nn.Module, image: Tensor, folder: Path) -> Path:
    """Write the network, of the shapes that it has for this batch; the file."""
    path = folder / FILE
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            network, (image.clone(),), dynamo=True, opset_version=OPSET, verbose=False, input_names=["image"]
        )
        assert program is not None, "as dynamo gives one"
        program.save(path, external_data=False)
    return path
