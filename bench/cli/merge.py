"""`densebench merge`: results of somebody else."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, Results, out
from bench.errors import printable


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="machines' folders with records, or results folders", show_default=False)
    ],
    results: Results = Path("results"),
    machine: Annotated[
        str | None, typer.Option(help="what the folder is to be called, where there is one; default: as it is")
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="take kept models, too")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be taken; write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Add somebody else's results to one's own; what is not sound is refused, and what is there stays as it is."""
    from bench.store import merge as merging

    done = []
    for one in merging.merge(folders, results, machine=machine, kept=models, write=not dry_run):
        done.append(one)
        if not as_json:
            first, *others = merging.words(one)
            out().print(printable(first), soft_wrap=True, highlight=False)
            for line in others:
                out().print(f"  {printable(line)}", style="yellow", soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps([merging.as_json(one) for one in done], indent=1))
    elif dry_run:
        out().print("nothing was written (--dry-run)", soft_wrap=True)
    elif any(one.taken for one in done):
        out().print(f"tables are made by `densebench report --results {results}`", soft_wrap=True)
    if any(one.refused for one in done):
        raise typer.Exit(1)
