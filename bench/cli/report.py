"""`densebench report` and `explore`: tables, pictures and the page, out of the records."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Results, err, one_of, out
from bench.errors import UserError


def report(
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="write nothing; fail if a table is not what the records give")
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="draw all pictures, too, as PNG and SVG")] = False,
    html: Annotated[bool, typer.Option("--html", help="write the page of `densebench explore`, too")] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="move damaged lines of records to a file beside them first")
    ] = False,
) -> None:
    """Regenerate every table from the records alone."""
    from bench.report.tables import report as regenerate

    one_of(check=check, html=html)
    if set_aside:
        if check:
            raise UserError("--check writes nothing, and --set-aside moves lines; give one of them")
        _set_aside(results)
    done = regenerate(results, check=check)
    if check:
        for path in done.differing:
            err().print(f"{path} is not what the records give; run `densebench report`", style="red", soft_wrap=True)
        if not done.ok:
            raise typer.Exit(1)
        out().print(f"{len(done.unchanged)} tables are what the records give")
        return
    out().print(f"{len(done.written)} tables written, {len(done.unchanged)} as they were", soft_wrap=True)
    for path in sorted(done.written + done.unchanged):
        out().print(f"  {path}", soft_wrap=True)
    if figures:
        from bench.report.figure import figures as draw
        from bench.report.pictures import draw as draw_all

        for path in [*draw(results), *draw_all(results)]:
            out().print(f"  {path} (and .svg)", soft_wrap=True)
    if html:
        _explore(results)


def _set_aside(results: Path) -> None:
    from bench.report.rows import folders
    from bench.store.store import Store

    for folder in folders(results):
        for line in Store(folder).set_aside():
            out().print(line, soft_wrap=True)


def explore(
    results: Results = Path("results"),
    out_: Annotated[
        Path | None, typer.Option("--out", help="the page; default: explorer.html in the folder of results")
    ] = None,
) -> None:
    """Write a page with all rows, to filter, weigh and choose from in a browser; it needs no server and no network."""
    _explore(results, out_)


def _explore(results: Path, path: Path | None = None) -> None:
    from bench.report.explorer import explore as write

    with err().status("comparing rows"):
        page, rows = write(results, path)
    out().print(f"{page}: {rows} rows, {page.stat().st_size / 2**20:.1f} MiB; open it in a browser", soft_wrap=True)
