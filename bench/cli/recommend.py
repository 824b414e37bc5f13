"""`densebench recommend`: what to take within limits."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, Results, Wide, axis, filters, one_of, out, split


def recommend(
    task: Annotated[str, typer.Option(help="segmentation or detection", show_default=False)],
    max_latency: Annotated[str | None, typer.Option(help="e.g. 20ms")] = None,
    min_images_per_s: Annotated[str | None, typer.Option(help="e.g. 100")] = None,
    max_memory: Annotated[str | None, typer.Option(help="peak memory, e.g. 2GiB")] = None,
    max_params: Annotated[str | None, typer.Option(help="e.g. 25M")] = None,
    max_energy: Annotated[str | None, typer.Option(help="per image, e.g. 0.5J")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN<=VALUE, COLUMN>=VALUE or AXIS=VALUE[,VALUE]; may be repeated", show_default=False),
    ] = None,
    best: Annotated[str | None, typer.Option(help="column to be best in; default: the task's accuracy")] = None,
    cost: Annotated[str | None, typer.Option(help="column that decides between ties; default: latency_ms")] = None,
    machine: Annotated[list[str] | None, axis("machines' folders; default: this machine's")] = None,
    environment: Annotated[
        str | None, typer.Option(help="of a machine that has several: the beginning of its id")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Name the backbone, patch, resolution and head to take within limits, and what cannot be told apart from it."""
    from bench.report import answer, limits
    from bench.report.recommend import recommend as found_for

    one_of(json=as_json, wide=wide)
    options = {
        "max-latency": max_latency,
        "min-images-per-s": min_images_per_s,
        "max-memory": max_memory,
        "max-params": max_params,
        "max-energy": max_energy,
    }
    stated = [limits.option(name, text) for name, text in options.items() if text is not None]
    bounds = [text for text in where or [] if limits.is_expression(text)]
    stated += [limits.expression(text) for text in bounds]
    found = found_for(
        results,
        task=task,
        limits=limits.checked(stated),
        best=best,
        cost=cost,
        machines=split(machine) if machine else _here(results),
        environment=environment,
        where=filters([text for text in where or [] if text not in bounds]),
    )
    if as_json:
        print(json.dumps(answer.as_json(found), indent=1))
    else:
        for part in answer.render(found, wide=wide):
            out().print(part, soft_wrap=True)


def _here(results: Path) -> list[str]:
    """This machine's folder, if it has records."""
    from bench.plan.environment import describe
    from bench.run import machine_folder
    from bench.store.store import RECORDS

    folder = machine_folder(results, None, describe())
    return [folder.name] if (folder / RECORDS).is_file() else []
