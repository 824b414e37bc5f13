"""What all pictures of the report have in common: colours, markers, fonts, and how they are written.

The palette is Okabe and Ito's without yellow (too faint on white), told apart with any colour vision; lines differ in
their markers, too, and areas in their hatching. Pictures are 8.5 inches wide, so that at the 850 px of a page a letter
of 8 points is 11 px high.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX<>"
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++", "oo")
SEQUENTIAL = "cividis"
"""Colour map of ordered values: even in brightness, and the same with any colour vision."""
WIDTH, DPI = 8.5, 150
"""Of a picture, in inches; and of its PNG."""
GREY, PALE = "#666666", "#dddddd"


def canvas(height: float, *, width: float = WIDTH) -> "Figure":
    """An empty picture, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415, slow to import

    drawing = _literal()(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


@cache
def _literal() -> "type[Figure]":
    """A figure that draws dollar signs in names as they are: they begin no formula, which might be none."""
    from matplotlib.figure import Figure  # noqa: PLC0415, slow to import
    from matplotlib.text import Text  # noqa: PLC0415

    class Literal(Figure):
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):
                assert isinstance(text, Text), "asked for"
                if "$" in text.get_text() and not text.get_text().startswith(r"$\mathdefault"):  # of an axis' numbers
                    text.set_parse_math(False)
            super().draw(renderer)

    return Literal


def plain(axes: "Axes", *, grid: str = "both") -> None:
    """A light grid behind what is drawn, and no frame above and to the right.

    grid: "x", "y" or "both".
    """
    axes.grid(which="both", axis=grid, linewidth=0.4, color=PALE)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(drawing: "Figure", path: Path) -> Path:
    """Write a picture as ``path`` (a PNG) and as an SVG beside it: the same picture gives the same bytes.

    Raises:
        UserError: a file cannot be written; names it.
    """
    import matplotlib as mpl  # noqa: PLC0415, slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415

    # Laid out once, and each file drawn once (`savefig` draws twice): it is slow.
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")
    # The date and the version that matplotlib writes by itself, and ids drawn by chance, would make equal pictures
    # differ; letters are written as outlines, for a browser's own font has other widths.
    target = path
    try:
        FigureCanvasAgg(drawing).print_png(target, metadata={"Software": None})
        target = path.with_suffix(".svg")
        with mpl.rc_context({"svg.hashsalt": "densebench", "svg.fonttype": "path"}):
            FigureCanvasSVG(drawing).print_svg(target, metadata={"Date": None, "Creator": None})
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); name another folder with --results") from error
    return path
