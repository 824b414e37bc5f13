"""An OpenVINO model narrowed to int8 by NNCF.

Static: NNCF chooses what is narrowed, by its scheme for transformers where there is attention; weights have a scale a
channel. Weights alone: symmetric, a scale a channel.
"""

import logging
import os
import warnings
from importlib import import_module
from typing import Any

from backbones.contract import Unsupported
from bench.runtimes.contract import Options

_ATTENTION = frozenset({"ScaledDotProductAttention", "Softmax"})


def quantise(model: Any, options: Options) -> Any:
    """A narrowed copy of a model.

    Raises:
        Unsupported: there is nothing in it that is narrowed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would tell Intel of its use otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts
        nncf: Any = import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        if options.quantise == "int8-static":
            images = [image.cpu().numpy() for image in options.calibration]
            transformer = not _ATTENTION.isdisjoint(one.get_type_name() for one in model.get_ops())
            made = nncf.quantize(
                model,
                nncf.Dataset(images),
                subset_size=len(images),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            )
        else:
            made = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    if not any(_narrow(one) for one in made.get_ops()):
        raise Unsupported(f"NNCF found nothing to narrow to {options.quantise} in this model")
    return made


def _narrow(operation: Any) -> bool:
    kind = operation.get_type_name()
    return kind == "FakeQuantize" or (kind == "Constant" and operation.get_element_type().to_string() == "i8")
