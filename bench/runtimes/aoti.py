"""AOTInductor: torch's compiler ahead of time, a package of machine code that torch loads without Python's model."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.runtimes._narrow import narrow
from bench.runtimes.contract import Options

CATALOGUE = {
    "aoti": {
        "needs": ["torch"],
        "extra": "",
        "devices": ["cpu", "cuda"],
        "dtypes": ["fp32", "bf16", "fp16"],
        "quantise": ["none"],
        "quantisers": [],
    }
}
FILE = "model.pt2"
RUN = """
import torch
from torch._inductor import aoti_load_package

model = aoti_load_package(str(here / "model.pt2"))
with torch.inference_mode():
    outputs = [one.cpu().numpy() for one in model(torch.from_numpy(image).to(contract["model"]["device"]))]
"""


def export(network: nn.Module, image: Tensor, folder: Path, options: Options) -> None:
    """Write ``model.pt2``; takes a C++ compiler, as `torch.compile` does."""
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415 - slow to import

    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own parts
        program = torch.export.export(narrow(network, options), (image.clone(),))
        aoti_compile_and_package(program, package_path=str(folder / FILE))


def load(folder: Path, options: Options) -> Callable[[Tensor], Sequence[Tensor]]:  # noqa: ARG001 - torch's own threads
    """The package's function."""
    from torch._inductor import aoti_load_package  # noqa: PLC0415 - slow to import

    return aoti_load_package(str(folder / FILE))
