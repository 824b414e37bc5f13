"""`densebench compact`: records without those that count no more."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, Results, err, out
from bench.errors import printable


def compact(
    results: Results = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be dropped; write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Drop records that no table, claim or run looks at any more, into an archive beside them."""
    from bench.report.rows import folders
    from bench.store import compact as compacting

    done = []
    for folder in folders(results):
        with err().status(f"looking through {printable(str(folder))}"):
            one = compacting.compact(folder, write=not dry_run)
        done.append(one)
        if not as_json:
            for line in compacting.words(one, written=not dry_run):
                out().print(printable(line), soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps([compacting.as_json(one) for one in done], indent=1))
