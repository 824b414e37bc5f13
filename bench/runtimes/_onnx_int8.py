"""An ONNX file narrowed to int8 by ONNX Runtime's quantiser: matrix products and convolutions, the rest stays float32.

Static: both of these, as pairs of QuantizeLinear and DequantizeLinear (QDQ), weights with a scale a channel, ranges of
activations between the smallest and largest value seen. Dynamic: products with weights alone, for ONNX Runtime has no
convolution for it on a CPU.
"""

import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.contract import Unsupported
from bench.runtimes.contract import Options

_STATIC = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_DYNAMIC = ["Gemm", "MatMul"]
_NARROW = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})


def quantise(path: Path, options: Options) -> None:
    """Narrow a file in place.

    Raises:
        Unsupported: there is nothing in it that is narrowed.
    """
    made, prepared = path.with_name("int8.onnx"), path.with_name("prepared.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts
        library: Any = import_module("onnxruntime.quantization")
        shapes: Any = import_module("onnxruntime.quantization.shape_inference")
        shapes.quant_pre_process(path, prepared, skip_symbolic_shape=True)  # torch's exporter states all shapes
        alike = {"per_channel": True, "weight_type": library.QuantType.QInt8}
        if options.quantise == "int8-static":
            given = _reader(library, options.calibration)
            library.quantize_static(prepared, made, given, op_types_to_quantize=_STATIC, **alike)
        else:
            library.quantize_dynamic(prepared, made, op_types_to_quantize=_DYNAMIC, **alike)
    if _NARROW.isdisjoint(_operations(made)):
        raise Unsupported(f"ONNX Runtime found nothing to narrow to {options.quantise} in this model")
    made.replace(path)
    prepared.unlink()


def _reader(library: Any, images: Sequence[Tensor]) -> Any:
    """What ONNX Runtime takes images from: a batch a call, None after the last."""
    left: Iterator[Tensor] = iter(images)

    class Reader(library.CalibrationDataReader):
        def get_next(self) -> Any:
            image = next(left, None)
            return None if image is None else {"image": image.cpu().numpy()}

    return Reader()


def _operations(path: Path) -> set[str]:
    onnx: Any = import_module("onnx")
    return {node.op_type for node in onnx.load(path).graph.node}
