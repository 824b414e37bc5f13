"""What there is, found by looking: a folder is the registry, and planning never waits for torch.

A plug-in is one Python file with a literal ``CATALOGUE`` (a dict of name -> dict of literals). The literal is read from
the source text, so that listing and planning import nothing; the file is imported by the process that uses it. Other
distributions add files of their own through entry points in the groups ``densebench.backbones``, ``densebench.heads``,
``densebench.data``, ``densebench.measures``, ``densebench.launchers`` and ``densebench.runtimes`` (the value is the
module's dotted name).

An entry whose name ends in a colon is a *namespace*: ``{"timm:": {"names": "timm_zoo.json"}}`` stands for every
``timm:NAME``. The JSON file beside the plug-in has NAME -> facts for the names that were known when it was made; for
another the plug-in's function ``facts(name)`` is asked, which may import what it likes.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.cache import Stated
from bench.errors import UserError, unknown

ROOT = Path(__file__).resolve().parent.parent
_FOLDERS = {
    "backbones": ("backbones", ROOT / "backbones"),
    "heads": ("heads", ROOT / "heads"),
    "data": ("bench.data", ROOT / "bench" / "data"),
    "measures": ("bench.measures", ROOT / "bench" / "measures"),
    "launchers": ("bench.launchers", ROOT / "bench" / "launchers"),
    "runtimes": ("bench.runtimes", ROOT / "bench" / "runtimes"),
}
_SINGULAR = {
    "backbones": "backbone",
    "heads": "head",
    "data": "data set",
    "measures": "measure",
    "launchers": "launcher",
    "runtimes": "runtime",
}


_REQUIRED = {
    "backbones": ("patch",),
    "heads": ("task",),
    "data": ("tasks", "root", "redistributable"),
    "runtimes": ("needs", "extra", "devices", "dtypes", "quantise", "quantisers"),
}
"""What planning and reporting need to know of an entry."""


@dataclass(frozen=True)
class Entry:
    """One name of a catalogue.

    facts: the literals that its file states about it.
    module: dotted name of the file, to import where the thing itself is needed.
    source: the file.
    doc: first line of the file's docstring, or the entry's own ``doc``.
    """

    name: str
    module: str
    source: Path
    doc: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> ModuleType:
        """Import the file.

        Raises:
            UserError: the file cannot be imported; names it.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise UserError(f"{self.source} (for '{self.name}') cannot be imported: {error}") from error


def entries(kind: str) -> Mapping[str, Entry]:
    """All entries of one kind, in order of name; what namespaces hold is not among them.

    Raises:
        UserError: see `namespaces`.
    """
    return _read_all(kind)[0]


def namespaces(kind: str) -> Mapping[str, Entry]:
    """The namespaces of one kind: "timm:" -> its entry.

    Raises:
        UserError: a plug-in file is broken, or two files claim one name; names the files.
    """
    return _read_all(kind)[1]


@cache
def members(kind: str, namespace: str) -> Mapping[str, Entry]:
    """The entries that a namespace knows without importing anything, by their full names.

    Raises:
        UserError: its file of names is missing or broken; names it.
    """
    space = namespaces(kind)[namespace]
    path = space.source.with_name(space.facts["names"])
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}, the names of '{namespace}', cannot be read: {error}") from error
    return {namespace + name: _member(space, namespace + name, facts) for name, facts in known.items()}


def _member(space: Entry, name: str, facts: Mapping[str, Any]) -> Entry:
    return Entry(name, space.module, space.source, str(facts.get("doc", space.doc)), {**space.facts, **facts})


@cache
def _read_all(kind: str) -> tuple[Mapping[str, Entry], Mapping[str, Entry]]:
    """The entries of one kind and its namespaces, in order of name; tables ask for them once a record.

    Raises:
        UserError: a plug-in file is broken, or two files claim one name; names the files.
    """
    package, folder = _FOLDERS[kind]
    found: dict[str, Entry] = {}
    files = [(f"{package}.{path.stem}", path) for path in sorted(folder.glob("*.py")) if path.stem[0] != "_"]
    for point in sorted(importlib.metadata.entry_points(group=f"densebench.{kind}"), key=lambda point: point.name):
        try:
            spec = importlib.util.find_spec(point.value)
        except ImportError:  # of the package that it is in
            spec = None
        if spec is None or spec.origin is None:
            raise UserError(f"entry point '{point.name}' of densebench.{kind} names {point.value}, which is not there")
        files.append((point.value, Path(spec.origin)))
    stated = Stated()
    for module, path in files:
        for name, doc, facts in stated.of(path, lambda path=path: _stated(path)):
            entry = Entry(name, module, path, doc, facts)
            required = ("names",) if entry.name.endswith(":") else _REQUIRED.get(kind, ())
            if missing := [key for key in required if key not in entry.facts]:
                raise UserError(f"{path}: {_SINGULAR[kind]} '{entry.name}' does not state its {' and '.join(missing)}")
            if entry.name in found:
                raise UserError(f"{path} and {found[entry.name].source} both define {_SINGULAR[kind]} '{entry.name}'")
            found[entry.name] = entry
    stated.keep()
    ordered = sorted(found.items())
    return (
        {name: entry for name, entry in ordered if not name.endswith(":")},
        {name: entry for name, entry in ordered if name.endswith(":")},
    )


def read(module: str, path: Path) -> list[Entry]:
    """The entries that one file states; none if it has no ``CATALOGUE`` (a contract or shared parts).

    Raises:
        UserError: a syntax error, or a ``CATALOGUE`` that is no literal dict of dicts.
    """
    return [Entry(name, module, path, doc, facts) for name, doc, facts in _stated(path)]


def _stated(path: Path) -> list[list[Any]]:
    """Name, doc and facts of each entry of a file, as `read` makes entries of them."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"plug-in {path} is broken: {error}") from error
    value = _assigned(tree, "CATALOGUE")
    if value is None:
        return []
    try:
        catalogue = ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"plug-in {path}, line {value.lineno}: CATALOGUE must be a literal (it is read without importing the file)"
        ) from error
    if not isinstance(catalogue, dict) or not all(
        isinstance(name, str) and isinstance(facts, dict) for name, facts in catalogue.items()
    ):
        raise UserError(f"plug-in {path}, line {value.lineno}: CATALOGUE must be a dict of name -> dict")
    doc = (ast.get_docstring(tree) or "").partition("\n")[0]
    return [[name, facts.get("doc", doc), facts] for name, facts in catalogue.items()]


def first_sentence(text: str) -> str:
    """A text up to the end of its first sentence, on one line; all of it where no sentence ends."""
    # What looks like an end and is none: the points of "e.g." and of a file's name.
    ends = r"(?<=[.?!])(?<!\b\w\.)\s+(?=[A-Z])"
    return re.split(ends, " ".join(text.split()), maxsplit=1)[0]


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value
    return None


def get(kind: str, name: str) -> Entry:
    """One entry.

    Raises:
        UserError: no such name; says what was probably meant and what there is.
    """
    found = entries(kind)
    if name in found:
        return found[name]
    space = namespaces(kind).get(name[: name.find(":") + 1])
    if space is None:
        raise unknown(_SINGULAR[kind], name, [*found, *(f"{space}NAME" for space in namespaces(kind))])
    known = members(kind, space.name)
    if name in known:
        return known[name]
    try:
        return _member(space, name, space.load().facts(name.removeprefix(space.name)))
    except ValueError as error:  # the plug-in knows no such name, or cannot have it; it says so in a sentence
        raise UserError(str(error)) from error


def find(kind: str, name: str) -> Entry | None:
    """The entry of a name, or of the namespace that it is in; None: there is none, or nothing of the kind."""
    if kind not in _FOLDERS:
        return None
    return entries(kind).get(name) or namespaces(kind).get(name[: name.find(":") + 1])


def normed(fields: Mapping[str, Any]) -> bool:
    """Whether the levels of the backbone that these fields of a cell name get norms on their way to the head.

    They do where they are raw (``levels``, or a namespace's ``raw_levels``) and the head has no norm of its own on what
    it takes (``norms``); see `backbones.contract.Backbone.norm_levels`.
    """
    if not {"backbones", "heads"} <= set(_FOLDERS):
        return False
    head = entries("heads").get(str(fields.get("head", "")))
    if head is None or head.facts.get("norms"):
        return False
    name = str(fields.get("backbone", ""))
    entry = entries("backbones").get(name)
    if entry is not None:
        return entry.facts.get("levels") == "raw"
    space = namespaces("backbones").get(name[: name.find(":") + 1])
    return space is not None and name.removeprefix(space.name).startswith(tuple(space.facts.get("raw_levels", ())))


def training_revisions(fields: Mapping[str, Any]) -> dict[str, int]:
    """How often the training of what these fields of a cell name was changed, of those where it was: "head" -> 2.

    An entry states it as ``training_revision`` when what it learns changes (a loss, how weights start) and what it
    costs does not: trainings of an earlier one are then no answer any more.
    """
    kinds = {"backbone": "backbones", "head": "heads"}
    found = {}
    for field_, kind in kinds.items():
        if kind not in _FOLDERS:
            continue
        entry = entries(kind).get(fields.get(field_, ""))
        if entry is not None and (revision := int(entry.facts.get("training_revision", 1))) > 1:
            found[field_] = revision
    return found


def dataset(name: str) -> Entry:
    """The entry of a data set as a cell names it: ``layout`` or ``layout:instance`` (``voc:bccd``)."""
    return get("data", name.partition(":")[0])
