"""TensorRT on an NVIDIA GPU, built from ONNX for that very card; no GPU has run this file yet."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.contract import Unsupported
from bench.runtimes._onnx import FILE as ONNX
from bench.runtimes._onnx import to_onnx
from bench.runtimes.contract import Options

CATALOGUE = {
    "tensorrt": {
        "needs": ["tensorrt", "onnxscript"],
        "extra": "tensorrt",
        "devices": ["cuda"],
        "dtypes": ["fp32", "tf32", "fp16", "bf16"],
        "quantise": ["none"],
        "quantisers": [],
    }
}
FILE = "model.engine"


def export(network: nn.Module, image: Tensor, folder: Path, options: Options) -> None:
    """Write ``model.engine``, in which kernels were chosen by trying them on the card.

    Raises:
        Unsupported: TensorRT does not know an operation, in its own words.
    """
    trt: Any = import_module("tensorrt")

    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    graph, settings = builder.create_network(0), builder.create_builder_config()
    parser = trt.OnnxParser(graph, log)
    path = to_onnx(network, [image], folder / ONNX)
    if not parser.parse(path.read_bytes()):
        raise Unsupported(f"TensorRT {trt.__version__}: {parser.get_error(0).desc()}")
    flags = {"tf32": "TF32", "fp16": "FP16", "bf16": "BF16"}
    settings.clear_flag(trt.BuilderFlag.TF32)  # on unless it is told otherwise
    if options.dtype in flags:
        settings.set_flag(getattr(trt.BuilderFlag, flags[options.dtype]))
    engine = builder.build_serialized_network(graph, settings)
    if engine is None:
        raise Unsupported(f"TensorRT {trt.__version__} built no engine of this network")
    (folder / FILE).write_bytes(engine)
    path.unlink()


def load(folder: Path, options: Options) -> Callable[[Tensor], Sequence[Tensor]]:
    """The engine, on torch's current stream."""
    trt: Any = import_module("tensorrt")

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine((folder / FILE).read_bytes())
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    (given,) = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]

    def run(image: Tensor) -> list[Tensor]:
        # New ones each time, as every runtime gives: the next call would overwrite the others.
        outputs = {name: _empty(engine, name, options.device, trt) for name in names if name != given}
        context.set_tensor_address(given, image.contiguous().data_ptr())
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        context.execute_async_v3(torch.cuda.current_stream(image.device).cuda_stream)
        return list(outputs.values())

    return run


def _empty(engine: Any, name: str, device: str, trt: Any) -> Tensor:
    numbers = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int64: torch.int64, trt.int32: torch.int32}
    return torch.empty(
        tuple(engine.get_tensor_shape(name)), dtype=numbers[engine.get_tensor_dtype(name)], device=device
    )
