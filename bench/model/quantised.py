"""A model in torch whose linear layers are narrowed to int8 by torchao; what else it is made of stays as it is."""

import warnings
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import nn

from backbones.contract import Unsupported
from bench.model import modes
from bench.plan import runtimes
from bench.plan.cell import Cell
from heads.contract import Model

_CONFIGS = {"int8-dynamic": "Int8DynamicActivationInt8WeightConfig", "int8-weights": "Int8WeightOnlyConfig"}


def narrow(net: Model, cell: Cell, device: torch.device) -> Model:
    """Quantise a model in place as its cell says, and run it once.

    Args:
        net: as `bench.model.modes.for_inference` gives it.
        cell: names the quantisation.
        device: where the model lies.

    Raises:
        Unsupported: torchao is not here or cannot do it, or the model has nothing that it narrows.
    """
    if cell.quantise == "none":
        return net
    if why := runtimes.lacking(cell):
        raise Unsupported(why, axes=("runtime", "quantise"))
    if not any(isinstance(module, nn.Linear) for module in net.modules()):
        raise Unsupported(
            f"torchao narrows linear layers, and this model has none; take quantise none, or runtime openvino or "
            f"onnxruntime with int8-static instead of {cell.quantise}",
            axes=("quantise",),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts
        library: Any = import_module("torchao.quantization")
        try:
            library.quantize_(net, getattr(library, _CONFIGS[cell.quantise])())
            with torch.inference_mode():
                net(modes.noise(replace(cell, batch=1), device))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError) as error:
            words = str(error).partition("\n")[0]
            raise Unsupported(
                f"torchao, {cell.quantise}: {type(error).__name__}: {words}", axes=("quantise",)
            ) from error
    return net
