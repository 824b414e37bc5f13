"""Published figures beside counted ones: the rows, the verdict on each, and the table. No torch here."""

import csv
import io
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PATH = Path(__file__).resolve().parent / "published.toml"
PARAMS_WITHIN, MACS_WITHIN = 0.005, 0.01
"""Shares of the published figure by which a counted one may differ."""

Verdict = Literal["reproduced", "explained", "differs"]


class Published(BaseModel):
    """One published model; the fields are explained at the top of ``published.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backbone: str
    patch: int | None = None
    window: Literal["keep", "scale"] = "keep"
    head: str | None = None
    classes: int | None = None
    size: tuple[int, int]
    parts: tuple[str, ...] = Field(default=(), alias="with")
    params: int
    params_step: int = 1
    gmacs: float | None = None
    gmacs_step: float = 0.001
    convention: str
    source: str
    explained: str = ""


@dataclass(frozen=True)
class Checked:
    """A published model, and what this suite counts for the same one."""

    published: Published
    params: float
    gmacs: float

    @property
    def params_off(self) -> float:
        """Counted less published, as a share of the published."""
        return self.params / self.published.params - 1

    @property
    def gmacs_off(self) -> float | None:
        """Counted less published, as a share of the published; None if none is published."""
        return None if self.published.gmacs is None else self.gmacs / self.published.gmacs - 1

    @property
    def verdict(self) -> Verdict:
        """Reproduced: as near as `PARAMS_WITHIN` and `MACS_WITHIN` ask, or within the rounding of the source."""
        row = self.published
        good = _near(self.params, row.params, PARAMS_WITHIN, row.params_step)
        if row.gmacs is not None:
            good = good and _near(self.gmacs, row.gmacs, MACS_WITHIN, row.gmacs_step)
        if good:
            return "reproduced"
        return "explained" if row.explained else "differs"


def _near(counted: float, published: float, share: float, step: float) -> bool:
    return abs(counted - published) <= max(share * published, step / 2)


def load() -> tuple[Published, ...]:
    """All published rows, in the order of the file."""
    return tuple(Published(**row) for row in tomllib.loads(PATH.read_text(encoding="utf-8"))["row"])


HEADER = (
    "model",
    "input",
    "params published (M)",
    "counted (M)",
    "off (%)",
    "MACs published (G)",
    "counted (G)",
    "off (%)",
    "verdict",
    "convention",
    "source",
)
"""Columns of the table."""


def cells(row: Checked) -> tuple[str, ...]:
    """One row of the table."""
    published = row.published
    has_macs = published.gmacs is not None and row.gmacs_off is not None
    return (
        published.model,
        f"{published.size[0]}x{published.size[1]}",
        _trimmed(published.params / 1e6, published.params_step / 1e6),
        f"{row.params / 1e6:.3f}",
        f"{100 * row.params_off:+.2f}",
        _trimmed(published.gmacs or 0, published.gmacs_step) if has_macs else "",
        f"{row.gmacs:.3f}",
        f"{100 * (row.gmacs_off or 0):+.2f}" if has_macs else "",
        row.verdict,
        published.convention + (f". Differs: {published.explained}" if row.verdict == "explained" else ""),
        published.source,
    )


def _trimmed(value: float, step: float) -> str:
    """As many decimals as the source gives, three at most."""
    decimals = next((digits for digits in range(3) if step >= 0.999 * 10**-digits), 3)
    return f"{value:.{decimals}f}"


def markdown(rows: Sequence[Checked]) -> str:
    """The side-by-side table."""
    numeric = {2, 3, 4, 5, 6, 7}
    good = sum(row.verdict == "reproduced" for row in rows)
    summary = (
        f"{good} of {len(rows)} published models are reproduced: parameters within {100 * PARAMS_WITHIN:g} %, MACs "
        f"within {100 * MACS_WITHIN:g} %, or within the rounding of the source. Counted on the meta device by "
        "`densebench verify`, with what the convention names added to this suite's model; nothing is fitted."
    )
    rule = " | ".join("---:" if column in numeric else "---" for column in range(len(HEADER)))
    table = [f"| {' | '.join(line)} |" for line in (HEADER, *map(cells, rows))]
    return "\n".join(["# Published figures, reproduced", "", summary, "", table[0], f"| {rule} |", *table[1:], ""])


def as_csv(rows: Sequence[Checked]) -> str:
    """The same table for programs, unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "model",
            "height",
            "width",
            "params",
            "params_counted",
            "gmacs",
            "gmacs_counted",
            "verdict",
            "convention",
            "source",
        ]
    )
    for row in rows:
        one = row.published
        writer.writerow(
            [
                one.model,
                *one.size,
                one.params,
                round(row.params),
                one.gmacs,
                round(row.gmacs, 6),
                row.verdict,
                one.convention,
                one.source,
            ]
        )
    return out.getvalue()
