"""`densebench list`: names of what there is."""

import json
from typing import Annotated

import typer

from bench.cli.shared import Json, folded

_KINDS = {one: one for one in ("backbones", "heads", "measures", "runtimes")} | {"datasets": "data"}
_SHOWN = ("name", "task", "tasks", "patch", "version", "here", "quantise", "doc")
"""Columns of a table, where rows have them."""


def list_(
    kind: Annotated[str, typer.Argument(help="backbones, heads, datasets, measures, runtimes, matrices or recipes")],
    pattern: Annotated[str, typer.Argument(help="only names like this, e.g. 'timm:*dinov2*'")] = "*",
    as_json: Json = False,
) -> None:
    """Name what there is."""
    from fnmatch import fnmatch

    from bench import catalogue
    from bench.errors import unknown

    spaces: dict[str, int] = {}
    if kind == "matrices":
        from bench.plan import matrix

        rows = [{"name": name, "doc": matrix.question(name)} for name in matrix.names()]
    elif kind == "recipes":
        from bench.plan import recipe

        rows = [{"name": name, "doc": recipe.doc(name)} for name in recipe.names()]
    elif kind in _KINDS:
        entries = dict(catalogue.entries(_KINDS[kind]))
        for space in catalogue.namespaces(_KINDS[kind]):
            found = catalogue.members(_KINDS[kind], space)
            spaces[space] = len(found)
            if pattern.startswith(space):  # hundreds of names: for whom they are named, not for everybody
                entries |= found
        rows = [{"name": entry.name, **entry.facts, "doc": entry.doc} for entry in entries.values()]
        if kind == "runtimes":
            from bench.plan import runtimes

            rows = [{**row, "here": runtimes.here(row["name"])} for row in rows]
    else:
        raise unknown("kind", kind, [*_KINDS, "matrices", "recipes"])
    rows = [row for row in rows if fnmatch(row["name"], pattern)]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    shown = [key for key in _SHOWN if any(key in row for row in rows)]
    cells = [[_cell(row.get(key, "")) for key in shown] for row in rows]
    head, *lines = folded(shown, cells) if rows else [""]
    typer.echo("\n".join([typer.style(head, bold=True), *lines]))
    if pattern == "*":
        for space, count in spaces.items():
            example = f"densebench list {kind} '{space}*'"
            typer.echo(f"and {space}NAME, {count} more: {example}")


def _cell(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
