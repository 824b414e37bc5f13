"""``densebench explore``: one page with all rows, to look at, filter and choose from, without server or network.

The page is `page.html` with the styles, scripts and data in it: scripts are plain functions, a file a subject, and run
in one scope. Charts are Vega-Lite's. The same records, and the same release of Vega-Lite, give the same bytes.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import UserError
from bench.report.explorer.data import data
from bench.report.rows import folders, read
from bench.store import pictures

NAME = "explorer.html"
SCRIPTS = ("rows", "state", "answer", "chart", "table", "controls", "detail", "main")
"""The page's own scripts, in order."""
_PLACE = re.compile(r"<!--\{(\w+)\}-->")


def explore(results: Path, out: Path | None = None) -> tuple[Path, int]:
    """Write the page; its path, and how many rows it has.

    Args:
        results: a results folder, or a machine's folder.
        out: the page; None: ``explorer.html`` in the results folder.

    Raises:
        UserError: no records, broken records, no library for charts, or a page that cannot be written; names it.
    """
    path = results / NAME if out is None else out
    found = folders(results)
    charts = library()
    with _replaced(path) as temporary:  # what cannot be written is said before rows are compared
        near = path.parent.resolve()
        places = [_address(os.path.relpath(folder.resolve(), near)) for folder in found]
        known = data([read(folder) for folder in found], places)
        temporary.write_text(page(known, charts), encoding="utf-8")
    return path, len(known["rows"]["id"])


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file that takes the place of another when all went well, and is gone when not."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.touch()
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file with --out") from error


def page(known: Mapping[str, Any], charts: str) -> str:
    """The page with these data and the library of charts in it.

    Nothing in the data can end the element that they lie in: ``<``, ``>`` and ``&`` are escapes of JSON, as is all that
    is not ASCII.
    """
    folder = Path(__file__).parent
    text = json.dumps(known, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    own = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    within = {
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "data": text,
        # Within a string of a script this is the same text.
        "charts": charts.replace("</script", r"<\/script").replace("<!--", r"<\!--"),
        "scripts": f'"use strict";\n(() => {{\n{own}\n}})();',
    }
    return _PLACE.sub(lambda place: within[place[1]], (folder / "page.html").read_text(encoding="utf-8"))


@cache
def library() -> str:
    """Vega, Vega-Lite and their embedding as one script, which sets ``vegaEmbed``.

    Raises:
        UserError: the package that has them is not installed.
    """
    try:
        from vl_convert import javascript_bundle  # noqa: PLC0415, of an extra
    except ImportError as error:
        raise UserError(
            "the page needs vl-convert-python for its charts, and it is not installed; "
            "run `pip install 'densebench[explore]'` (in a checkout: pip install -e '.[explore]')"
        ) from error
    return javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _address(folder: str) -> str:
    """A relative address of a machine's pictures."""
    return quote(os.fsencode(f"{folder}/{pictures.FOLDER}/".removeprefix("./")))
