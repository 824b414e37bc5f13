"""`densebench predict`: what a kept model sees."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Results, err, out, say
from bench.errors import UserError, printable


def predict(
    images: Annotated[list[Path], typer.Argument(help="pictures", show_default=False)],
    cell: Annotated[
        str, typer.Option(help="a kept model: the beginning of its digest (`densebench models`), or its file")
    ],
    out_: Annotated[Path, typer.Option("--out", help="folder of the overlays")] = Path("predictions"),
    results: Results = Path("results"),
) -> None:
    """Draw what a kept model sees in pictures over them."""
    from bench.plan import models

    kept = models.opened(cell, (results,))
    from bench.predict import predict as look

    say(f"{kept.cell.title()}, recipe {kept.cell.recipe}: {', '.join(kept.classes)}")
    unread = 0
    try:
        for seen in look(kept, images, out_):
            unread += seen.overlay is None
            if seen.overlay is None:
                err().print(printable(seen.words), style="red", soft_wrap=True)
            else:
                out().print(f"{seen.overlay}: {seen.words}", soft_wrap=True)
    except OSError as error:
        raise UserError(f"{out_} cannot be written to ({error.strerror}); name another folder by --out") from error
    if unread:
        err().print(f"{unread} of {len(images)} pictures could not be read", style="red")
        raise typer.Exit(1)
