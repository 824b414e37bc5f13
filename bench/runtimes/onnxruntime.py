"""ONNX Runtime: exported to ONNX by torch.export, all graph optimisations on, denormal numbers as they are."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.contract import Unsupported
from bench.runtimes._narrow import narrow
from bench.runtimes._onnx import FILE, join, to_onnx
from bench.runtimes._onnx_int8 import quantise
from bench.runtimes.contract import Options

CATALOGUE = {
    "onnxruntime": {
        "needs": ["onnxruntime", "onnxscript"],
        "extra": "onnxruntime",
        "devices": ["cpu", "cuda"],
        "dtypes": ["fp32"],
        "cuda_dtypes": ["fp16"],
        "quantise": ["none", "int8-static", "int8-dynamic"],
        "quantisers": [],
    }
}
RUN = """
import onnxruntime

session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
outputs = session.run(None, {session.get_inputs()[0].name: image})
"""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def export(network: nn.Module, image: Tensor, folder: Path, options: Options) -> None:
    """Write ``model.onnx``.

    Raises:
        Unsupported: there is nothing in the network that is narrowed.
    """
    path = to_onnx(narrow(network, options), [image], folder / FILE)
    if options.quantise != "none":
        quantise(path, options)
    if options.decoding is not None:
        with torch.no_grad():
            join(path, options.decoding, network(image))


def load(folder: Path, options: Options) -> Callable[[Tensor], Sequence[Tensor]]:
    """A session on the device.

    Raises:
        Unsupported: this build of ONNX Runtime has no provider for the device.
    """
    ort: Any = import_module("onnxruntime")
    kind, _, index = options.device.partition(":")
    provider = _PROVIDERS[kind]
    if provider not in ort.get_available_providers():
        raise Unsupported(
            f"onnxruntime {ort.__version__} as it is installed has no {provider}; for NVIDIA GPUs the package "
            "is onnxruntime-gpu"
        )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.add_session_config_entry("session.set_denormal_as_zero", "0")
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # others are timed between two calls
    settings.log_severity_level = 3
    given = {"device_id": index or "0"} if kind == "cuda" else {}
    session = ort.InferenceSession(str(folder / FILE), settings, providers=[(provider, given)])
    (name,) = [one.name for one in session.get_inputs()]
    if kind == "cpu":
        return lambda image: [torch.from_numpy(one) for one in session.run(None, {name: image.numpy()})]
    binding = session.io_binding()

    def run(image: Tensor) -> list[Tensor]:
        # It computes in a stream of its own, which does not wait for what torch still writes to the image.
        torch.cuda.current_stream(image.device).synchronize()
        binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(image.contiguous()))
        for one in session.get_outputs():
            binding.bind_output(one.name, kind, int(index or 0))
        session.run_with_iobinding(binding)
        return [torch.from_dlpack(one) for one in binding.get_outputs()]

    return run
