"""How a trained model is run for its accuracy: as torch has it, narrowed by torchao, or exported to another runtime.

What is exported takes one image: so ranges that are found as a batch comes are those of that image, and no figure
depends on which images came together.
"""

import copy
from dataclasses import dataclass, field, replace

import torch

from backbones.contract import Unsupported
from bench.model import build, modes
from bench.model.deploy import InRuntime, deploy
from bench.model.quantised import narrow
from bench.plan import runtimes
from bench.plan.cell import CALIBRATED, SILENT, Cell, agrees
from bench.plan.measure import CALIBRATION, Context, Value
from bench.training.calibration import calibration
from heads.contract import Model


@dataclass(frozen=True)
class Ready:
    """A model to evaluate. batch: images that it takes at a time; None: any. said: beside the columns of its record."""

    net: Model
    batch: int | None = None
    said: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How the model of a cell is run."""

    cell: Cell

    @property
    def plain(self) -> bool:
        """Whether as it was trained."""
        return agrees(self.cell, SILENT)

    def ready(self, net: Model, context: Context) -> Ready:
        """A trained model (which stays as it is) to evaluate.

        Raises:
            Unsupported: the runtime or its quantiser cannot do it.
        """
        device = build.device_of(self.cell)
        net = copy.deepcopy(net).to(device)
        if self.cell.runtime == runtimes.TORCH:
            return Ready(narrow(modes.for_inference(net, self.cell, device), self.cell, device))
        return self._exported(net.eval(), device, context)

    def _exported(self, net: Model, device: torch.device, context: Context) -> Ready:
        case, said = context.case, ""
        images = []
        if self.cell.quantise in CALIBRATED:
            context.report("reading images to calibrate by", 0, 1)
            images, said = calibration(net, case.split("train"), case.recipe, size=self.cell.size)
        image = modes.noise(replace(self.cell, dtype="fp32"), device)
        runs = deploy(net, image, self.cell, calibration=images, said=said, report=context.report)
        return Ready(InRuntime(net, runs), 1, runs.said | ({CALIBRATION: said} if said else {}))


def of(cell: Cell, context: Context) -> Way:
    """The way of a cell, seen to be possible as far as that is known before its model is trained.

    Accuracy depends on no mode of torch: of cells that share it any may come.

    Raises:
        Unsupported: the runtime is not here, or does not have what the cell asks for.
    """
    if agrees(cell, SILENT):
        return Way(cell)
    cell = replace(cell, batch=1, threads=context.threads)
    if cell.runtime != runtimes.TORCH:
        cell = replace(cell, compile="none", memory_format="contiguous")
    if why := runtimes.lacking(cell):
        raise Unsupported(why, axes=("runtime", "quantise"))
    return Way(cell)
