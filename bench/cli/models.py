"""`densebench models`: what runs have kept."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, Results, out, split
from bench.errors import UserError


def models(
    prune: Annotated[
        list[str] | None,
        typer.Option(help="remove these, by the beginnings of their digests; may be repeated", show_default=False),
    ] = None,
    prune_all: Annotated[bool, typer.Option("--prune-all", help="remove all of them")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="with --prune-all: but not these", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="really remove them; else it is said what would be")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List the models that runs have kept, and remove those that are wanted no more."""
    from bench.report import models as kept

    if prune and prune_all:
        raise UserError("--prune removes some models and --prune-all all of them: give one of them")
    if keep and not prune_all:
        raise UserError("--keep goes with --prune-all; --prune names what is removed, and the others stay")
    found = kept.lines(results)
    if prune or prune_all:
        spared = kept.chosen(found, split(keep or []))
        gone = [line for line in found if line not in spared] if prune_all else kept.chosen(found, split(prune or []))
        for line in gone:
            if yes:
                line.path.unlink(missing_ok=True)
            out().print(f"{'removed' if yes else 'would remove'} {line.path}", soft_wrap=True)
        if gone and not yes:
            out().print("nothing was removed: add --yes to do it", soft_wrap=True)
        return
    if as_json:
        names = ("digest", "what", "size", "accuracy")
        print(
            json.dumps(
                [dict(zip(names, one.cells(), strict=True)) | {"path": str(one.path)} for one in found], indent=1
            )
        )
        return
    if not found:
        out().print(f"no kept models in {results}; `densebench run --keep-models` keeps them", soft_wrap=True)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("digest", "model", "size", "accuracy", box=None, pad_edge=False)
    for line in found:
        table.add_row(*map(Text, line.cells()))
    out().print(table, soft_wrap=True)
