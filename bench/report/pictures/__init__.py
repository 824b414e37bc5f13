"""Pictures of the tables: ``<machine>/figures/<task>_<data set>_…`` as PNG and SVG, from the records alone.

They are many and can be drawn again, so they have a folder of their own below the tables; only the picture of a whole
task (`bench.report.figure`) stands beside them. One module a kind of picture: `grids` (patch size by resolution),
`scaling` (time and memory over pixels), `scores` (of each class, of each size of object), `parts` (of a latency),
`curves` (the loss of trainings). Each gives `Picture`s only where there is something to see.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError
from bench.report.pictures import curves, grids, parts, scaling, scores
from bench.report.pictures.common import Picture
from bench.report.rows import Table, folders, read
from bench.report.style import save

FOLDER = "figures"
"""Below the tables of a machine."""
ENDINGS = (".png", ".svg")


def draw(results: Path) -> list[Path]:
    """Draw all pictures of every machine; the PNGs. Those that the records no longer give are removed.

    Raises:
        UserError: no or broken records, or a folder that cannot be written to; names it.
    """
    drawn: list[Path] = []
    for machine in folders(results):
        wanted = list(planned(read(machine).tables))
        folder = machine / FOLDER
        try:
            if wanted:
                folder.mkdir(exist_ok=True)
            for old in sorted(folder.glob("*")) if folder.is_dir() else []:
                if old.suffix in ENDINGS and old.stem not in {picture.name for picture in wanted}:
                    old.unlink()
        except OSError as error:
            raise UserError(
                f"pictures in {folder} cannot be written ({error.strerror}); make it writable or use another --results"
            ) from error
        drawn += [save(picture.draw(), folder / f"{picture.name}.png") for picture in wanted]
    return drawn


def planned(tables: tuple[Table, ...]) -> Iterator[Picture]:
    """The pictures of a machine's tables, each with a name of its own."""
    taken: set[str] = set()
    for table in tables:
        for kind in (grids, scaling, scores, parts, curves):
            for picture in kind.pictures(table):
                name, number = picture.name, 2
                while name in taken:
                    name, number = f"{picture.name}_{number}", number + 1
                taken.add(name)
                yield Picture(name, picture.draw)
