"""`densebench data`: a folder of images, looked at."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, err, out


def data(
    folder: Annotated[
        Path, typer.Argument(help="folder of images with labels, as a tool, a course or a paper left it")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="read it as this data set; default: whichever fits", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a folder of images: its layout, what its labels hold, all broken files, and the run that fits."""
    from rich.text import Text

    from bench import survey
    from bench.cache import cache_folder
    from bench.errors import at_home
    from bench.plan.environment import describe

    with err().status("looking at the folder") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(f"looking at {what}, {done}/{total}")

        found = survey.look(at_home(folder), cache_folder(), only=dataset, gpu=bool(describe().gpus), report=tell)
    if as_json:
        print(json.dumps(survey.as_json(found), indent=1))
    else:
        for part in survey.render(found):
            out().print(part, soft_wrap=isinstance(part, Text))
    if not found.ok:
        raise typer.Exit(1)
