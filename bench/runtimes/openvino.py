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
from bench.runtimes._onnx import FILE as ONNX
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
    model = _converted(openvino, network, [image])
    if options.quantise != "none":
        model = quantise(model, options)
    if options.decoding is not None:
        with torch.no_grad():
            tensors = network(image)
        model = _joined(openvino, model, _converted(openvino, options.decoding, tensors))
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _converted(openvino: Any, network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """A network as OpenVINO has it, of these very shapes; by way of ONNX where it lacks a rule for an operation."""
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's own operations
        program = torch.export.export(network, tuple(one.clone() for one in inputs))
        try:
            model = openvino.convert_model(program)
        except Exception:  # it has errors of its own for every part
            if not installed("onnxscript"):
                raise
            with tempfile.TemporaryDirectory(prefix="densebench-") as folder:
                model = openvino.convert_model(to_onnx(network, inputs, Path(folder) / ONNX))
    model.reshape({one: list(given.shape) for one, given in zip(model.inputs, inputs, strict=True)})
    return model


def _joined(openvino: Any, first: Any, behind: Any) -> Any:
    """One model of two, the second of which takes what the first gives."""
    for result, parameter in zip(first.get_results(), behind.get_parameters(), strict=True):
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(result.input_value(0))
    return openvino.Model(behind.get_results(), first.get_parameters())


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
