"""`densebench export`: a model as files of a runtime."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.shared import Results, err, out, say
from bench.errors import UserError

_TRAINED = "trained:"


def export(
    backbone: Annotated[str, typer.Argument(help="of `densebench list backbones`", show_default=False)],
    head: Annotated[str, typer.Argument(help="of `densebench list heads`", show_default=False)],
    runtime: Annotated[str, typer.Option(help="of `densebench list runtimes`")],
    out_: Annotated[Path, typer.Option("--out", help="folder of the files")],
    weights: Annotated[
        str,
        typer.Option(
            help="trained:DIGEST or the file of a kept model (backbone and head); otherwise of the backbone alone, "
            "under a random head: random, pretrained, ..."
        ),
    ] = "random",
    patch: Annotated[str | None, typer.Option(help="patch size; default: the native one, or the kept model's")] = None,
    resolution: Annotated[str | None, typer.Option(help="HxW in pixels; default: 224, or the kept model's")] = None,
    dataset: Annotated[str | None, typer.Option(help="whose classes the head tells apart; default: scenes")] = None,
    data_root: Annotated[list[str] | None, typer.Option(help="folder of the data set, if it lies on disk")] = None,
    classes: Annotated[int | None, typer.Option(help="how many the head tells apart, instead of a data set's")] = None,
    batch: Annotated[int, typer.Option(help="images of a call")] = 1,
    dtype: Annotated[str, typer.Option(help="of its arithmetic")] = "fp32",
    quantise: Annotated[str, typer.Option(help="none, int8-static, int8-dynamic or int8-weights")] = "none",
    device: Annotated[str, typer.Option(help="that it is for")] = "cpu",
    results: Results = Path("results"),
) -> None:
    """Give a model out as files of a runtime, with what goes in and comes out, and a script that runs it."""
    kept = _kept(weights, results, backbone, head)
    given: dict[str, Any] = {
        "backbone": backbone,
        "head": head,
        "runtime": runtime,
        "patch": patch if kept is None or patch is not None else kept.cell.patch,
        "resolution": resolution or ("224" if kept is None else f"{kept.cell.height}x{kept.cell.width}"),
        "dataset": dataset or ("scenes" if kept is None else kept.cell.dataset),
        "weights": "random" if kept is not None else weights,
        "batch": batch,
        "dtype": dtype,
        "quantise": quantise,
        "device": device,
    }
    if classes is not None and (kept is not None or dataset is not None):
        raise UserError("--classes is for a model that neither a training nor a --dataset gives classes")
    from bench.plan.dataset import Roots

    roots = Roots(data_root or [])
    cell = _cell(given, weights)
    if kept is not None and (cell.patch, cell.size) != (kept.cell.patch, kept.cell.size):
        raise UserError(
            f"{weights} was trained as {kept.cell.title()}: its patch and resolution are those, and "
            f"{cell.patch} and {cell.height}x{cell.width} were asked for"
        )
    if kept is None:
        say("the head has random weights: such files are for measuring time, and what they predict means nothing")
    elif kept.recipe.meet != "stretch":
        say(f"the model was trained on pictures that meet the input by '{kept.recipe.meet}'; run.py stretches them")
    from backbones.contract import Unsupported
    from bench.export import CONTRACT, SCRIPT
    from bench.export import export as write

    try:
        with err().status("exporting"):
            contract = write(_asked(cell, kept, classes, roots), out_, say=say)
    except Unsupported as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{out_} cannot be written to ({error.strerror}); name another folder by --out") from error
    for one in contract["outputs"]:
        apart = f"{one['deviation']:.2g} from" if "deviation" in one else f"{100 * one['equal']:.2f} % as in"
        out().print(f"{one['name']} {one['dtype']} {'x'.join(map(str, one['shape']))}: {apart} torch", soft_wrap=True)
    out().print(f"{out_}: {', '.join(contract['files'])}, {CONTRACT}", soft_wrap=True)
    if (out_ / SCRIPT).is_file():
        out().print(f"python {out_ / SCRIPT} PICTURE", soft_wrap=True)
    else:
        say(f"there is no script of ten lines for {runtime}; {CONTRACT} says what goes in and comes out")


def _kept(weights: str, results: Path, backbone: str, head: str) -> Any:
    """The kept model that weights name; None: they are of a backbone alone."""
    from bench.plan import models

    if weights.startswith(_TRAINED):
        kept = models.opened(weights.removeprefix(_TRAINED), dict.fromkeys((results, models.RESULTS)))
    elif weights.endswith(models.ENDING):
        try:
            kept = models.opened(weights)
        except UserError:
            if not Path(weights).is_file():
                raise
            return None  # a backbone's, of somebody else
    else:
        return None
    if (kept.cell.backbone, kept.cell.head) != (backbone, head):
        raise UserError(f"{weights} is {kept.cell.backbone} under {kept.cell.head}, not {backbone} under {head}")
    return kept


def _cell(given: dict[str, Any], weights: str) -> Any:
    """The one cell, its names checked as those of a run."""
    from dataclasses import replace

    from bench.plan import matrix
    from bench.plan.environment import describe

    named = {axis: [value] for axis, value in given.items() if value is not None}
    question = matrix.load("smoke").override({**named, "patch": [given["patch"] or "native"]})
    return replace(next(question.asks(describe())).cell, weights=weights)


def _asked(cell: Any, kept: Any, classes: int | None, roots: Any) -> Any:
    """The model, its classes, and images where its quantisation needs some."""
    from bench.cache import cache_folder
    from bench.export import Asked
    from bench.plan.case import resolve
    from bench.plan.cell import CALIBRATED

    if classes is not None:
        return Asked(cell, None, classes)
    if kept is not None and cell.quantise not in CALIBRATED:
        return Asked(cell, kept, kept.classes, kept.background)
    from dataclasses import replace

    name, root = roots.resolve(cell.dataset)
    case = resolve(replace(cell, dataset=name), cache=cache_folder(), root=root)
    data = case.split("train")
    if kept is None:
        return Asked(cell, None, tuple(data.classes), data.background, data, case.recipe)
    return Asked(cell, kept, kept.classes, kept.background, data, kept.recipe)
