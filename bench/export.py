"""``densebench export``: a model as files of a runtime, what goes in and comes out, and a script that runs it."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.contract import Unsupported
from bench import catalogue
from bench.data.contract import Dataset
from bench.errors import UserError
from bench.model import kept as trained
from bench.model import modes
from bench.model.artifact import distance
from bench.model.build import build, device_of
from bench.model.deploy import Deployed, deploy
from bench.plan import runtimes
from bench.plan.cell import CALIBRATED, Cell
from bench.plan.environment import installed
from bench.plan.models import Kept
from bench.plan.recipe import Recipe
from bench.runtimes._onnx import OPSET
from bench.store import artifacts
from bench.training.calibration import calibration
from heads.contract import Model

CONTRACT, SCRIPT = "contract.json", "run.py"
"""What goes in and comes out, for machines and people, and the script."""
_SCRIPT = '''"""Run the model on a picture: python run.py PICTURE [OUTPUTS.npz]. Needs numpy, pillow and {needs}."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

here = Path(__file__).resolve().parent
contract = json.loads((here / "contract.json").read_text(encoding="utf-8"))
batch, _, height, width = contract["input"]["shape"]
picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
picture = picture.resize((width, height), Image.Resampling.BILINEAR)
image = np.repeat(np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255, batch, axis=0)  # RGB, 0..1, NCHW

{run}
found = {{one["name"]: output for one, output in zip(contract["outputs"], outputs)}}
np.savez(sys.argv[2] if len(sys.argv) > 2 else "outputs.npz", **found)
print({{name: output.shape for name, output in found.items()}})
'''
_SEGMENTED = (("classes", "index of the class of each pixel, into the list of classes"),)
_DETECTED = (
    ("boxes", "x1, y1, x2, y2 in pixels of the input, of a fixed number of places; the best first"),
    ("scores", "0 to 1, falling; 0 where there is no box"),
    ("labels", "index of the class of each box, into the list of classes"),
    ("masks", "pixels of each object"),
)


@dataclass(frozen=True)
class Asked:
    """What is to be exported.

    cell: names all choices. kept: the trained model; None: one is built, and its head is random. classes: names, or
    how many there are. background: index of the class that means "nothing here". data: the training split, and the
    recipe that says how its pictures meet the input, for ranges of int8; None: there is none.
    """

    cell: Cell
    kept: Kept | None
    classes: Sequence[str] | int
    background: int | None = None
    data: Dataset | None = None
    recipe: Recipe | None = None

    @property
    def count(self) -> int:
        """K."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)


def export(
    asked: Asked,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write a model's files into a folder, with ``contract.json`` and ``run.py``.

    The graph ends in the prediction: the class per pixel at the size of the input, or boxes after NMS. Where the head
    or the runtime cannot have that in it, it ends in the head's raw output, and that is said.

    Args:
        asked: what.
        folder: is made; one that is there must be empty, or of an earlier export.
        say: takes a sentence for the user.
        report: is told what is being done.

    Returns:
        What stands in ``contract.json``.

    Raises:
        UserError: the folder holds something else, a name is unknown, or weights cannot be had.
        Unsupported: the runtime is not here, or cannot have this model.
        OSError: the folder cannot be written to.
    """
    _free(folder)
    cell = asked.cell
    if cell.runtime == runtimes.TORCH:
        raise UserError("with runtime torch there is nothing to export; `bench.load_model` opens a kept model")
    if why := runtimes.lacking(cell):
        raise Unsupported(why)
    device = device_of(cell)
    net = _net(asked).to(device).eval()
    images, said = _images(asked, net)
    image = modes.noise(replace(cell, dtype="fp32"), device)
    how: dict[str, Any] = {"calibration": images, "said": said, "report": report, "say": say}
    decoded = True
    try:
        runs = deploy(net, image, cell, decoded=True, **how)
    except Unsupported as error:
        say(f"the graph ends in the head's raw output, for decoding cannot be in it: {error}")
        decoded = False
        runs = deploy(net, image, cell, **how)
    outputs = _outputs(runs, image, net, decoded=decoded)
    contract = _contract(asked, runs, outputs, decoded=decoded, calibrated=said)
    _write(folder, runs, contract, vars(catalogue.get("runtimes", cell.runtime).load()).get("RUN", ""))
    return contract


def _net(asked: Asked) -> Model:
    if asked.kept is not None:
        return trained.of(asked.kept)
    cell = asked.cell
    torch.manual_seed(cell.seed)
    choices: dict[str, Any] = {"attention": cell.attention, "window": cell.window, "padding": cell.padding}
    return build(
        cell.backbone,
        cell.head,
        patch=cell.patch,
        size=cell.size,
        classes=asked.count,
        weights=cell.weights,
        resample=cell.resample,  # pyright: ignore[reportArgumentType] - checked by the matrix
        **choices,
    )


def _images(asked: Asked, net: Model) -> tuple[Sequence[Tensor], str]:
    """What ranges of activations are found by, as a batch of the cell, and what is said of it."""
    if asked.cell.quantise not in CALIBRATED:
        return (), ""
    if asked.data is None or asked.recipe is None:
        raise UserError(
            f"quantise {asked.cell.quantise} finds ranges by images of the training split: name a --dataset"
        )
    images, said = calibration(net, asked.data, asked.recipe, size=asked.cell.size)
    return [one.expand(asked.cell.batch, -1, -1, -1).contiguous() for one in images], said


def _outputs(runs: Deployed, image: Tensor, net: Model, *, decoded: bool) -> list[dict[str, Any]]:
    """Name, form and meaning of each, and how far it is from what torch gives for noise in float32."""
    found = runs.run(image)
    with torch.inference_mode():
        wanted = runs.flat(image)
    names = (_SEGMENTED if net.task == "segmentation" else _DETECTED) if decoded else ()
    raw = [(f"raw{index}", "of the head, to be decoded by its `decode`") for index in range(len(names), len(found))]
    return [
        {
            "name": name,
            "shape": list(one.shape),
            "dtype": str(one.dtype).removeprefix("torch."),
            "meaning": meaning,
            **_apart(one, other),
        }
        for (name, meaning), one, other in zip([*names[: len(found)], *raw], found, wanted, strict=True)
    ]


def _apart(one: Tensor, other: Tensor) -> dict[str, float]:
    if other.is_floating_point():
        return {"deviation": distance([one.float().cpu()], [other.float().cpu()])}
    return {"equal": (one.cpu() == other.cpu()).float().mean().item()}


def _contract(
    asked: Asked, runs: Deployed, outputs: list[dict[str, Any]], *, decoded: bool, calibrated: str
) -> dict[str, Any]:
    cell = asked.cell
    names = [path.name for path in _files(runs.folder)]
    said: dict[str, Any] = {
        "model": cell.part(("backbone", "patch", "weights", "head", "dtype", "quantise", "device")),
        "runtime": cell.runtime,
        "versions": f"{runtimes.versions(cell.runtime, cell.quantise)}, torch {installed('torch')}",
        "densebench": installed("densebench"),
        "files": names,
        "input": {
            "name": "image",
            "shape": [cell.batch, 3, *cell.size],
            "dtype": "float32",
            "layout": "NCHW",
            "channels": "RGB",
            "range": [0, 1],
            "normalisation": "in the graph",
            "meets": "stretch" if asked.kept is None else asked.kept.recipe.meet,
        },
        "decoded": decoded,
        "outputs": outputs,
        "compared": "with torch in float32, for noise: deviation is relative L2, equal a share of elements",
        "classes": asked.classes if isinstance(asked.classes, int) else list(asked.classes),
        "background": asked.background,
    }
    if any(name.endswith(".onnx") for name in names):
        said["opset"] = OPSET
    return said | ({"calibration": calibrated} if calibrated else {})


def _free(folder: Path) -> None:
    """See that nothing is lost.

    Raises:
        UserError: something else lies there.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONTRACT).is_file():
        raise UserError(f"{folder} is not empty, and no export lies in it; name another folder by --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder by --out")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != artifacts.WHOLE)


def _write(folder: Path, runs: Deployed, contract: dict[str, Any], run: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files(runs.folder):
        shutil.copy2(path, folder / path.name)
    (folder / CONTRACT).write_text(json.dumps(contract, indent=1) + "\n", encoding="utf-8")
    if run:
        needs = "torch" if contract["runtime"] == "aoti" else contract["runtime"]
        (folder / SCRIPT).write_text(_SCRIPT.format(needs=needs, run=run.strip() + "\n"), encoding="utf-8")
    else:
        (folder / SCRIPT).unlink(missing_ok=True)  # of an earlier export to another runtime
