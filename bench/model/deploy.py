"""A network in a runtime other than torch: exported once, kept, and called like the network itself.

What is exported takes an image and gives the tensors of the head's raw output; the decoding is torch's, so that "end to
end" is image to prediction in every runtime. Files lie in the cache under a digest of the network's code and weights,
its input, the runtime and all its versions; a folder that is not whole is made again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backbones.contract import Unsupported
from bench import catalogue
from bench.cache import cache_folder
from bench.plan import runtimes, source
from bench.plan.cell import Cell
from bench.plan.environment import installed
from bench.runtimes.contract import Options
from bench.store import states
from heads.contract import Model

_WHOLE = "whole.json"
"""File of an artifact's folder that is written last: name -> bytes of every other file, and seconds of the export."""


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

    def __call__(self, image: Tensor) -> Any:
        """What the network gives."""
        return self.flat.whole(self.run(image))


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
    net: nn.Module,
    image: Tensor,
    cell: Cell,
    *,
    calibration: Sequence[Tensor] = (),
    said: str = "",
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Deployed:
    """Export a network as its cell says, or take what was exported before, and load it.

    Args:
        net: float32, in inference mode, on the cell's device.
        image: (B, 3, H, W), a batch as it will be called with.
        cell: names runtime, dtype, quantisation, device and threads.
        calibration: see `bench.runtimes.contract.Options`.
        said: what tells this calibration from others.
        report: is told what is being done.

    Raises:
        Unsupported: the runtime is not here, or does not have what the cell asks for.
    """
    if why := runtimes.lacking(cell):
        raise Unsupported(why, axes=("runtime", "quantise"))
    runtime = catalogue.get("runtimes", cell.runtime).load()
    options = Options(cell.device, cell.dtype, cell.threads, cell.quantise, calibration)
    flat = Flat(net, image).eval()
    folder = cache_folder() / states.ARTIFACTS / _digest(flat, image, cell, said)
    kept = _whole(folder)
    reused = kept is not None
    if kept is None:
        report("exporting", 0, 1)
        kept = _export(runtime, flat, image, folder, options)
    report("loading", 0, 1)
    start = time.perf_counter()
    run = runtime.load(folder, options)
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    run(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    first_ms = 1000 * (time.perf_counter() - start)
    mib = sum(kept["files"].values()) / 2**20
    return Deployed(flat, run, folder, kept["export_s"], mib, load_s, first_ms, reused)


def _export(runtime: Any, flat: Flat, image: Tensor, folder: Path, options: Options) -> dict[str, Any]:
    """Into a folder beside, which then takes its place: nobody finds half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent, ignore_cleanup_errors=True) as aside:
        made = Path(aside) / "made"
        made.mkdir()
        start = time.perf_counter()
        runtime.export(flat, image, made, options)
        kept = {"export_s": time.perf_counter() - start, "files": _sizes(made)}
        (made / _WHOLE).write_text(json.dumps(kept), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process was there first
            made.rename(folder)
        if _whole(folder) is None:
            raise OSError(f"{folder} cannot be written")
    return kept


def _whole(folder: Path) -> dict[str, Any] | None:
    """What is kept of an artifact; None where it is not there, or not as it was written."""
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads((folder / _WHOLE).read_text(encoding="utf-8"))
        if kept["files"] and _sizes(folder) == kept["files"]:
            os.utime(folder)
            return kept
    return None


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _WHOLE)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _digest(flat: Flat, image: Tensor, cell: Cell, said: str) -> str:
    """Of all that decides what is exported."""
    found = hashlib.sha256()
    stated = {
        "runtime": [
            cell.runtime,
            runtimes.said(cell.runtime, cell.quantise),
            installed("torch"),
            installed("torchvision"),
        ],
        "options": [cell.dtype, cell.quantise, cell.device, cell.threads, said],
        "model": cell.part(("backbone", "patch", "head", "height", "width", "window", "padding", "attention")),
        "source": [source.stated("backbones", cell.backbone), source.stated("heads", cell.head)],
        "image": [*image.shape, str(image.dtype)],
    }
    found.update(json.dumps(stated, sort_keys=True).encode())
    for name, tensor in flat.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:24]
