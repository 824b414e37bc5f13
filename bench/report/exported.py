"""What there is to know of rows of models that ran elsewhere than in torch, in sentences below tables."""

from collections import defaultdict
from collections.abc import Sequence

from bench.plan.measure import CALIBRATION, DECODING
from bench.report.rows import Table

_NAMED = ("backbone", "patch", "head", "runtime", "quantise")
_IN_TORCH, _TIME = "in torch: ", "latency"


def sentences(tables: Sequence[Table]) -> list[str]:
    """Where such models are decoded, and which rows of int8 have nothing to do with what a model finds."""
    records = {
        id(record): record
        for table in tables
        for row in table.rows
        for part in row.parts.values()
        for record in part.records[-1:]
    }.values()
    found: list[str] = []
    in_torch: dict[str, list[str]] = defaultdict(list)
    exported = [record for record in records if DECODING in record.values]
    for record in exported:
        where = str(record.values[DECODING])
        if where.startswith(_IN_TORCH):
            words = [str(record.fields[name]) for name in _NAMED if name in record.fields]
            in_torch[where.removeprefix(_IN_TORCH)].append(" ".join(words))
    if exported:
        found.append(
            "End to end of a model in another runtime than torch is one graph of backbone, head and decoding, which "
            "gives a fixed number of boxes, or the class per pixel"
            + ("; all are so." if not in_torch else ", but for those that are named:")
        )
        found += [
            f"Decoded in torch: {', '.join(dict.fromkeys(names))}: {why}" for why, names in sorted(in_torch.items())
        ]
    if any(CALIBRATION in record.values and record.measure == _TIME for record in records):
        found.append(
            "Times of int8-static are of models that nobody trained, calibrated by noise: they say what int8 costs, "
            "and only the rows with an accuracy say what it loses."
        )
    return found
