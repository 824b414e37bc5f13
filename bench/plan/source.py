"""Which source makes a backbone or a head: a digest of its file and of all that this imports, read and not imported.

A record says by ``backbone source`` and ``head source`` what made its model, so that an edit is measured again. What
counts is the code: of the entry's file, and of what that imports, one from the other, out of ``backbones/``, ``heads/``
and the package that it is in. Comments, docstrings and layout do not count, nor do the entries of other names in a
``CATALOGUE``. Versions of timm, torchvision and others belong to the environment; the harness, and how weights are
fitted, to versions and revisions.

Records from before there were digests say none. ``sources.json`` has what each entry's source was then: what is made by
it goes without saying still. Who edits a file so that no number changes (a name, a comment that is code) adds the new
digest as one more of the same, by ``python -m bench.plan.source --same NAME``; without that the edit counts.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.catalogue import ROOT, Entry
from bench.errors import UserError, unknown

TABLE = Path(__file__).with_name("sources.json")
"""Kind -> name -> digest -> what records say of it: "" is nothing, another digest that it gives the same numbers."""
KINDS: Mapping[str, str] = {"backbone": "backbones", "head": "heads"}
"""Field of a cell -> kind of the catalogue."""
NAMES = tuple(f"{name} source" for name in KINDS)
"""Inputs of a record that say it."""
DIGITS = 12
_HOUSE = ("backbones", "heads")
_ASIDE = frozenset({"doc", "light", "patch", "training_revision"})
"""Facts of an entry that make no model: what is shown, what is tried first, a default, and what has its own input."""
_LAYOUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class _Module:
    """A file's code as a digest, and the dotted names that it may import."""

    digest: str
    imports: tuple[str, ...]


def of(inputs: Mapping[str, str]) -> dict[str, str]:
    """What the inputs of a record say of sources."""
    return {name: inputs[name] for name in NAMES if name in inputs}


def stated(kind: str, name: str) -> str:
    """What a record of today says of an entry's source: "" where it is one that goes without saying, or nothing known.

    Raises:
        UserError: a file is broken.
    """
    entry = catalogue.find(kind, name)
    if entry is None:
        return ""
    found = digest(entry)
    return _table(TABLE).get(kind, {}).get(entry.name, {}).get(found, found)


def said(fields: Mapping[str, Any], look: Callable[[str, str], str] = stated) -> dict[str, str]:
    """What a record says of the sources of what these fields of a cell name; nothing of those that need no saying.

    look: `stated`, or what remembers it.
    """
    found = {f"{name} source": look(kind, str(fields[name])) for name, kind in KINDS.items() if name in fields}
    return {name: text for name, text in found.items() if text}


def digest(entry: Entry) -> str:
    """Digest of the code that makes what an entry names.

    Raises:
        UserError: a file of it is broken.
    """
    facts = {} if ":" in entry.name else {name: fact for name, fact in entry.facts.items() if name not in _ASIDE}
    code = sorted(_module(path, *_stamp(path)).digest for path in files(entry).values())
    return _digest(json.dumps([facts, code], sort_keys=True))


def files(entry: Entry) -> dict[str, Path]:
    """Dotted name -> file, of the entry's own and of all that it imports, one from the other."""
    found = {entry.module: entry.source}
    left = [entry.module]
    while left:
        module = left.pop()
        for name in _module(found[module], *_stamp(found[module])).imports:
            path = None if name in found else _file(_absolute(name, module, found[module]), entry)
            if path is not None and path not in found.values():
                found[_absolute(name, module, found[module])] = path
                left.append(_absolute(name, module, found[module]))
    return found


def _absolute(name: str, module: str, path: Path) -> str:
    """A dotted name as it is imported by a module: leading points are of the packages that the module is in."""
    bare = name.lstrip(".")
    up = len(name) - len(bare)
    if not up:
        return name
    parts = module.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    package = package[: len(package) - up + 1]
    return ".".join([*package, bare] if bare else package)


def _file(name: str, entry: Entry) -> Path | None:
    """The file of a module of the house or of the entry's own package; None for others."""
    parts = name.split(".")
    if parts[0] in _HOUSE:
        root = ROOT
    elif parts[0] == entry.module.partition(".")[0]:
        above = list((entry.source.parent if entry.source.name == "__init__.py" else entry.source).parents)
        depth = entry.module.count(".")
        if depth >= len(above):
            return None
        root = above[depth]
    else:
        return None
    base = root.joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), and records have to say what it is") from error
    return stat.st_mtime_ns, stat.st_size


@cache
def _module(path: Path, _time: int, _size: int) -> _Module:
    """A file, read once as long as it does not change."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"plug-in {path} is broken: {error}") from error
    tree.body = [node for node in tree.body if not _is_catalogue(node)]
    code: list[str] = []
    _code(tree, code)
    return _Module(_digest("".join(code)), tuple(dict.fromkeys(_imports(tree))))


def _is_catalogue(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "CATALOGUE" for target in targets)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names of what may be modules, relative ones with their points."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            between = "." if node.module else ""
            yield from (f"{base}{between}{alias.name}" for alias in node.names)


def _code(node: object, into: list[str]) -> None:
    """Write code as text, the same for every version of Python that can parse it: no layout, no idle strings.

    (`ast.dump` is not: newer versions leave out what is empty, and have fields that older ones lack.)
    """
    if isinstance(node, ast.JoinedStr):  # to some versions it has empty texts between its values
        node.values = [one for one in node.values if not (isinstance(one, ast.Constant) and one.value == "")]
    if isinstance(node, ast.AST):
        into.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in _LAYOUT:
                into.append(f"{name}=")
                _code(value, into)
        into.append(")")
    elif isinstance(node, list):
        into.append("[")
        for item in node:
            if not (isinstance(item, ast.Expr) and _is_text(item.value)):
                _code(item, into)
        into.append("]")
    else:
        into.append(f"{node!r},")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


@cache
def _table(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; restore it") from error


def _all() -> dict[str, tuple[str, Entry]]:
    """Every name of the house, a namespace as one, with its kind."""
    found = {}
    for kind in KINDS.values():
        for name, entry in {**catalogue.entries(kind), **catalogue.namespaces(kind)}.items():
            if entry.source.is_relative_to(ROOT):
                found[name] = kind, entry
    return found


def same(chosen: Iterable[str], as_: str = "", path: Path = TABLE) -> list[str]:
    """State that the present source of some names (or of "all") gives the numbers of an earlier one.

    Args:
        chosen: of the house, namespaces with their colon.
        as_: digest of the earlier one, as records say it; "": the one that goes without saying.
        path: of the table.

    Returns:
        The names of which that was not stated yet.

    Raises:
        UserError: a name that nothing has.
    """
    known = _all()
    wanted = list(known) if list(chosen) == ["all"] else list(chosen)
    table = _table(path) if path.exists() else {}
    new = []
    for name in wanted:
        if name not in known:
            raise unknown("backbone or head", name, known)
        kind, entry = known[name]
        found = digest(entry)
        if table.setdefault(kind, {}).setdefault(name, {}).get(found) != as_ and found != as_:
            table[kind][name][found] = as_
            new.append(name)
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return new


def main(arguments: Sequence[str]) -> int:
    """List what records say of the present sources, or state that some are the same as before."""
    parser = argparse.ArgumentParser(prog="python -m bench.plan.source", description=main.__doc__)
    parser.add_argument("--same", metavar="NAME[,NAME]", help="their numbers are those of an earlier source; or 'all'")
    parser.add_argument("--as", dest="as_", metavar="DIGEST", default="", help="of that one; default: the first")
    given = parser.parse_args(arguments)
    try:
        if given.same:
            sys.stdout.write("".join(f"{name}\n" for name in same(given.same.split(","), given.as_)))
            return 0
        for name, (kind, _) in _all().items():
            sys.stdout.write(f"{kind} {name}: {stated(kind, name) or 'as at first'}\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
