"""A network in a runtime other than torch: exported once, kept, and called like the network itself.

What is exported takes an image and gives the tensors of the head's raw output, or with its decoding in the graph those
of the prediction (`heads.deployed`). Files lie in the cache under a digest of the network's code and weights, its
input, the runtime and all its versions (`bench.store.artifacts`); a folder that is not whole is made again.
"""

import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backbones.contract import Unsupported
from bench import catalogue
from bench.cache import cache_folder
from bench.errors import UserError
from bench.plan import oom, runtimes, source
from bench.plan.cell import Cell
from bench.plan.environment import installed
from bench.plan.measure import OPSET, Value
from bench.runtimes import _onnx
from bench.runtimes.contract import Options
from bench.store import artifacts
from heads import deployed
from heads.contract import Model, Prediction

LONGEST = 240
"""Letters of what a runtime says that it cannot; some name every dimension of a graph."""
_ANNOUNCES = re.compile(r"Exception from \S+:\d+:?")
"""OpenVINO says where in its source it was before it says what."""


class Flat(nn.Module):
    """A network whose output is a tuple of tensors.

    Args:
        net: of a batch of images.
        image: an example of one.

    Raises:
        Unsupported: its output holds something else than tensors and constants.
    """

    def __init__(self, net: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.net = net
        with torch.inference_mode():
            leaves, self.form = pytree.tree_flatten(net(image))
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.tensors = [isinstance(leaf, Tensor) for leaf in leaves]
        if not all(isinstance(leaf, Tensor | int | float | str | None) for leaf in leaves):
            kinds = sorted({type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)})
            raise Unsupported(f"the head's raw output holds {', '.join(kinds)}, which no runtime gives back")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Tensors of the output, in their order."""
        return tuple(leaf for leaf in pytree.tree_leaves(self.net(image)) if isinstance(leaf, Tensor))

    def whole(self, tensors: Sequence[Tensor]) -> Any:
        """The output that these are the tensors of."""
        left = iter(tensors)
        leaves = [next(left) if is_one else leaf for is_one, leaf in zip(self.tensors, self.constants, strict=True)]
        return pytree.tree_unflatten(leaves, self.form)


class Decoding(nn.Module):
    """What makes a prediction of the tensors of a model's raw output.

    Args:
        flat: the model, whose output they are.
        net: the model.
    """

    def __init__(self, flat: Flat, net: Model) -> None:
        super().__init__()
        self.flat, self.net = flat, net

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `heads.deployed.Deployed.forward`."""
        return deployed.deploy(self.net, self.flat.whole(tensors), self.net.size)


@dataclass(frozen=True)
class Deployed:
    """A network in a runtime.

    export_s: seconds that the export took, on the day when it was made. mib: of its files. load_s: seconds of loading.
    first_ms: of the first call. reused: whether it was there already.
    """

    flat: Flat
    run: Callable[[Tensor], Sequence[Tensor]]
    folder: Path
    export_s: float
    mib: float
    load_s: float
    first_ms: float
    reused: bool

    @property
    def said(self) -> dict[str, Value]:
        """Beside the columns of a record: the opset of its file in ONNX, if it has one."""
        return {OPSET: str(_onnx.OPSET)} if (self.folder / _onnx.FILE).is_file() else {}

    def __call__(self, image: Tensor) -> Any:
        """What the network gives; with its decoding in the graph the tensors of `heads.deployed.Deployed`."""
        return self.flat.whole(self.run(image))

    def prediction(self, image: Tensor) -> Prediction:
        """What one with its decoding in the graph predicts."""
        return deployed.prediction(tuple(self.run(image)))


class InRuntime(Model):
    """A model whose forward pass is a runtime's, for batches of the shape that it was exported for.

    What becomes of its output is torch's, as everywhere.
    """

    def __init__(self, net: Model, runs: Deployed) -> None:
        super().__init__(net.backbone, net.head, net.size)
        self.runs = runs
        self.eval()

    def forward(self, image: Tensor) -> Any:
        """See `heads.contract.Model.forward`."""
        return self.runs(image.contiguous())


def deploy(
    net: Model,
    image: Tensor,
    cell: Cell,
    *,
    decoded: bool = False,
    calibration: Sequence[Tensor] = (),
    said: str = "",
    report: Callable[[str, int, int], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Deployed:
    """Export a network as its cell says, or take what was exported before, and load it.

    Args:
        net: float32, in inference mode, on the cell's device.
        image: (B, 3, H, W), a batch as it will be called with.
        cell: names runtime, dtype, quantisation, device and threads.
        decoded: whether the graph goes on to the prediction at the size of the input. Quantising leaves that part as it
            is: what it predicts is what torch decodes of the graph that ends in the raw output.
        calibration: see `bench.runtimes.contract.Options`.
        said: what tells this calibration from others.
        report: is told what is being done.
        say: takes a sentence for the user: why something that was kept is of no use.

    Raises:
        Unsupported: the runtime is not here, or does not have what the cell asks for, or cannot run this network; or
            the head has no decoding that can be exported.
    """
    if why := runtimes.lacking(cell):
        raise Unsupported(why, axes=("runtime", "quantise"))
    runtime = catalogue.get("runtimes", cell.runtime).load()
    options = Options(cell.device, cell.dtype, cell.threads, cell.quantise, calibration)
    flat = Flat(deployed.Deployed(net) if decoded else net, image).eval()
    network: nn.Module = flat
    if decoded and cell.quantise != "none":
        network = Flat(net, image).eval()
        options = replace(options, decoding=Decoding(network, net).eval())
    question, made_by = _question(flat, image, cell, said), _made_by(cell)
    folder = cache_folder() / artifacts.FOLDER / hashlib.sha256(f"{question} {made_by}".encode()).hexdigest()[:24]
    kept, wrong = artifacts.find(folder)
    reused = kept is not None
    if kept is None:
        if wrong:
            say(f"the artifact {folder} is of no use ({wrong}): it is exported again")
        elif before := artifacts.earlier(folder, question, made_by):
            say(f"{cell.title()} was exported by {before}, and {made_by} is here: it is exported again")
        report("exporting", 0, 1)
        with _in_its_words(cell, "export"):
            kept = artifacts.write(
                folder, lambda made: runtime.export(network, image, made, options), question=question, made_by=made_by
            )
    report("loading", 0, 1)
    with _in_its_words(cell, "load"):
        start = time.perf_counter()
        run = runtime.load(folder, options)
        load_s = time.perf_counter() - start
    with _in_its_words(cell, "run"):
        start = time.perf_counter()
        run(image)
        if image.device.type == "cuda":
            torch.cuda.synchronize(image.device)
        first_ms = 1000 * (time.perf_counter() - start)
    return Deployed(flat, run, folder, kept.export_s, kept.mib, load_s, first_ms, reused)


@contextmanager
def _in_its_words(cell: Cell, what: str) -> Iterator[None]:
    """Within it, whatever a runtime raises is something that it lacks, but for want of memory or of a disk.

    Raises:
        Unsupported: says it in a line.
    """
    try:
        yield
    except (Unsupported, UserError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if oom.said(error):
            raise
        versions = runtimes.versions(cell.runtime, cell.quantise)
        raise Unsupported(f"{versions} cannot {what} this network: {gist(error)}") from error


def gist(error: BaseException) -> str:
    """The root of an error in a line of at most `LONGEST` letters: what it begins and what it ends with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _ANNOUNCES.fullmatch(line)]
    said = " ".join([lines[0], "…", lines[-1]] if len(lines) > 2 else lines)
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _made_by(cell: Cell) -> str:
    """Versions of all that an export depends on, and the CPU's instructions."""
    return ", ".join(
        [
            runtimes.said(cell.runtime, cell.quantise),
            f"torch {installed('torch')}, torchvision {installed('torchvision')}",
        ]
    )


def _question(flat: Flat, image: Tensor, cell: Cell, said: str) -> str:
    """Digest of all that decides what is exported, versions apart."""
    found = hashlib.sha256()
    stated = {
        "options": [cell.runtime, cell.dtype, cell.quantise, cell.device, cell.threads, said],
        "model": cell.part(("backbone", "patch", "head", "height", "width", "window", "padding", "attention")),
        "source": [source.stated("backbones", cell.backbone), source.stated("heads", cell.head)],
        "image": [*image.shape, str(image.dtype)],
    }
    if isinstance(flat.net, deployed.Deployed):
        stated["decoded"] = inspect.getsource(deployed)
    found.update(json.dumps(stated, sort_keys=True).encode())
    for name, tensor in flat.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:24]
