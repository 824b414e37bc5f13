"""`densebench verify`: published models, counted again."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Results, err, out
from bench.errors import UserError


def verify(
    model: Annotated[
        list[str] | None, typer.Argument(help="published models, by a part of their names; default: all")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Count parameters and MACs of published models, and put them beside the published figures."""
    from bench.report import published

    rows = published.load()
    if model:
        rows = tuple(row for row in rows if any(part.lower() in row.model.lower() for part in model))
        if not rows:
            raise UserError(
                f"no published model has {' or '.join(model)} in its name; there is: {_names_of_published()}"
            )
    from rich.table import Table
    from rich.text import Text

    from bench.verify import verify as count_all

    checked = []
    table = Table(*published.HEADER[:9], box=None, pad_edge=False)
    with err().status("counting") as status:
        for row in count_all(rows):
            checked.append(row)
            status.update(f"counted {len(checked)} of {len(rows)}")
            table.add_row(*(Text(cell) for cell in published.cells(row)[:9]))
    out().print(table)
    for row in checked:
        if row.verdict == "explained":
            out().print(f"{row.published.model}: {row.published.explained}", soft_wrap=True)
    if not model:  # a part of the table is no table
        results.mkdir(parents=True, exist_ok=True)
        for name, text in (("verify.md", published.markdown(checked)), ("verify.csv", published.as_csv(checked))):
            (results / name).write_text(text, encoding="utf-8")
            out().print(f"written: {results / name}", soft_wrap=True)
    if differing := [row.published.model for row in checked if row.verdict == "differs"]:
        err().print(f"not reproduced: {', '.join(differing)}", style="red", soft_wrap=True)
        raise typer.Exit(1)


def _names_of_published() -> str:
    from bench.report import published

    return ", ".join(row.model for row in published.load())
