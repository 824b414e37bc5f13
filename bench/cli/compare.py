"""`densebench compare`: rows beside each other."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Csv, Json, Results, Wide, axis, filters, one_of, out, split


def compare(
    cost: Annotated[str, typer.Option(help="column of the cost")] = "latency_ms",
    value: Annotated[str | None, typer.Option(help="column of the value; default: the task's accuracy")] = None,
    task: Annotated[str | None, typer.Option(help="segmentation or detection; default: both")] = None,
    by: Annotated[list[str] | None, axis("axes that name a row, e.g. backbone,patch")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="AXIS=VALUE[,VALUE], e.g. head=linear; may be repeated", show_default=False)
    ] = None,
    machine: Annotated[str | None, typer.Option(help="only this machine's folder")] = None,
    rows: Annotated[
        tuple[str, str] | None,
        typer.Option(help="two rows by their words, e.g. 'vit_pico/16 linear' 'hybrid_pico/16 linear'", metavar="A B"),
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
    wide: Wide = False,
    as_csv: Csv = False,
) -> None:
    """Compare cost with accuracy; the Pareto-optimal rows are marked. With --rows: two rows in every column."""
    from bench.report.compare import compare as comparison

    one_of(json=as_json, csv=as_csv, wide=wide)
    if rows is not None:
        one_of(rows=True, csv=as_csv)
        from bench.report.pair import pair

        two = pair(results, *rows, machine=machine, task=task)
        out().print(json.dumps(two.as_json(), indent=1) if as_json else two.render(wide=wide), soft_wrap=True)
        return
    found = comparison(
        results,
        machine=machine,
        task=task,
        cost=cost,
        value=value,
        where=filters(where or []),
        by=split(by) if by else None,
    )
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    elif as_csv:
        print(found.as_csv(), end="")
    else:
        out().print(found.render(wide=wide), soft_wrap=True)
