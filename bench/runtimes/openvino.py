"""OpenVINO on a CPU: converted from torch.export's program, one stream, hinted for latency, in the cell's dtype."""

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.plan.environment import installed
from bench.runtimes._nncf import quantise
from bench.runtimes._onnx import to_onnx
from bench.runtimes.contract import Options

CATALOGUE = {
    "openvino": {
        "needs": ["openvino"],
        "extra": "openvino",
        "devices": ["cpu"],
        "dtypes": ["fp32", "bf16", "fp16"],
        "quantise": ["none", "int8-static", "int8-weights"],
        "quantisers": ["nncf"],
    }
}
FILE = "model.xml"
RUN = """
import openvino

settings = {"INFERENCE_PRECISION_HINT": contract["model"]["dtype"].replace("fp", "f")}
outputs = list(openvino.Core().compile_model(here / "model.xml", "CPU", settings)(image).values())
"""
_PRECISION = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def export(network: nn.Module, image: Tensor, folder: Path, options: Options) -> None:
    """Write ``model.xml`` and ``model.bin``, in float32 but for what is quantised.

    Raises:
        Unsupported: there is nothing in the network that is narrowed.
    """
    os.environ.setdefault("CI", "true")  # converting tells Intel of it otherwise
    openvino: Any = import_module("openvino")
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's own operations
        program = torch.export.export(network, (image.clone(),))
        model = _converted(openvino, program, network, image)
        if options.quantise != "none":
            model = quantise(model, options)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _converted(openvino: Any, program: Any, network: nn.Module, image: Tensor) -> Any:
    """The program as OpenVINO has it, of this very shape; by way of ONNX where it lacks a rule for an operation."""
    try:
        model = openvino.convert_model(program)
    except Exception:  # it has errors of its own for every part
        if not installed("onnxscript"):
            raise
        with tempfile.TemporaryDirectory(prefix="densebench-") as folder:
            model = openvino.convert_model(to_onnx(network, image, Path(folder)))
    model.reshape({one: list(image.shape) for one in model.inputs})
    return model


def load(folder: Path, options: Options) -> Callable[[Tensor], Sequence[Tensor]]:
    """A compiled model. Left to itself OpenVINO would compute in bf16 where the CPU has it."""
    openvino: Any = import_module("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(options.threads),
        "INFERENCE_PRECISION_HINT": _PRECISION[options.dtype],
    }
    compiled = openvino.Core().compile_model(folder / FILE, "CPU", settings)
    request = compiled.create_infer_request()

    def run(image: Tensor) -> list[Tensor]:
        # Copied as every runtime does: what it holds is overwritten by the next call.
        return [torch.from_numpy(one) for one in request.infer([image.numpy()], share_inputs=True).values()]

    return run
