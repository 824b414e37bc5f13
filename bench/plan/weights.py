"""What a cell's ``weights`` mean, and which file they are; free of torch, for planning.

* ``random``
* ``pretrained``: the ones that the backbone's entry names; ``pretrained:TAG``: others of the same architecture. The
  published file lies in ``<cache folder>/weights/<library>/<architecture>.<tag>`` with the ending ``.safetensors``
  (timm) or ``.pth`` (torchvision), put there by hand or fetched by whoever needs it first.
* ``package:NAME``: those that a Python package holds, see `bench.plan.packages`; ``densebench fetch NAME`` puts them
  into the cache folder.
* ``trained:DIGEST``: of a model that ``densebench run --keep-models`` has kept, see `bench.plan.models`; its backbone
  alone counts, whatever head, patch and input size it was trained with.
* a path that ends in ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``.

An entry of a backbone names its published weights with ``timm`` or ``torchvision`` (the architecture's name there; in
the namespace ``timm:`` it is in the name itself) and ``tag``. Without a tag timm has none, and torchvision's is
``DEFAULT``, which is the library's own name for its best ones.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.catalogue import Entry
from bench.errors import UserError, at_home, shown, unknown
from bench.plan import models, packages

RANDOM = "random"
PRETRAINED = "pretrained"
PACKAGE = "package:"
TRAINED = "trained:"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_CHOICES = (
    RANDOM,
    PRETRAINED,
    f"{PRETRAINED}:TAG",
    f"{PACKAGE}NAME",
    f"{TRAINED}DIGEST",
    *(f"FILE{ending}" for ending in ENDINGS),
)
_LIBRARIES: Mapping[str, str] = {"timm": ".safetensors", "torchvision": ".pth"}
"""Library -> ending of its published files."""


@dataclass(frozen=True)
class Source:
    """Where weights come from: a file, or a library's published file that lies, or will lie, at ``path``."""

    library: Literal["file", "package", "timm", "torchvision", "trained"]
    path: Path
    architecture: str = ""
    tag: str = ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # nothing can be called so
        return False


def check(value: object) -> str:
    """A value of the axis ``weights``, as it was given.

    Raises:
        UserError: it is none, or names a file that is not there.
    """
    if not isinstance(value, str):
        raise UserError(f"weights are a text ({', '.join(_CHOICES)}), {shown(value)} came")
    if value in (RANDOM, PRETRAINED) or re.fullmatch(rf"{PRETRAINED}:[\w.+-]+", value):
        return value
    if value.startswith(PACKAGE):
        packages.get(value.removeprefix(PACKAGE))
        return value
    if re.fullmatch(rf"{TRAINED}[0-9a-f]{{{models.LEAST},{models.DIGITS}}}", value):
        return value  # where to look for it is known to who plans
    if value.endswith(ENDINGS):
        if not _is_file(at_home(value)):
            raise UserError(f"weights '{value}': there is no such file (looked from {Path.cwd()})")
        return value
    raise unknown("weights", value, _CHOICES)


def resolve(value: str, results: Iterable[Path]) -> tuple[str, Path | None]:
    """What a cell calls weights, and the file of a kept model, which is looked for in results folders.

    Raises:
        UserError: see `bench.plan.models.find`.
    """
    if not value.startswith(TRAINED):
        return value, None
    path = models.find(value.removeprefix(TRAINED), results)
    return f"{TRAINED}{path.stem}", path


def source(entry: Entry, value: str, cache: Path, trained: Path | None = None) -> Source | None:
    """Where the weights of a backbone come from.

    Args:
        entry: of the backbone.
        value: see `check`; not "random".
        cache: folder for what can be made again.
        trained: the file of a kept model; None: it is looked for in the folder ``results``.

    Returns:
        None where nobody has published weights of this backbone.

    Raises:
        UserError: a package's or a kept model's weights are of another backbone, or there is no such kept model.
    """
    if value.startswith(PACKAGE):
        return _packaged(entry, packages.get(value.removeprefix(PACKAGE)), cache)
    if value.startswith(TRAINED):
        return _trained(entry, trained or resolve(value, (models.RESULTS,))[1])
    name, _, tag = value.partition(":")
    if name != PRETRAINED:
        return Source("file", at_home(value))
    space, colon, member = entry.name.partition(":")
    for library, ending in _LIBRARIES.items():
        architecture = entry.facts.get(library) or (member.partition(".")[0] if colon and space == library else "")
        tag = tag or entry.facts.get("tag") or ("DEFAULT" if library == "torchvision" else "")
        if architecture and tag:
            path = cache / "weights" / library / f"{architecture}.{tag}{ending}"
            return Source(library, path, architecture, tag)  # pyright: ignore[reportArgumentType] - a key of the above
    return None


def _packaged(entry: Entry, package: packages.Package, cache: Path) -> Source:
    architecture = package.backbone.partition(":")[2]
    own = entry.facts.get("timm") or entry.name.partition(":")[2].partition(".")[0]
    if own != architecture:
        raise UserError(
            f"weights {PACKAGE}{package.name} are {package.what}, for {package.backbone}, and {entry.name} came"
        )
    return Source("package", package.path(cache), architecture)


def _trained(entry: Entry, path: Path | None) -> Source:
    assert path is not None, "found, or an error was raised"
    kept = models.opened(path)
    if kept.cell.backbone != entry.name:
        raise UserError(
            f"weights {TRAINED}{kept.digest} are of {kept.cell.backbone} ({kept.cell.title()}), and {entry.name} came"
        )
    return Source("trained", path)


def digest(entry: Entry, value: str, cache: Path, trained: Path | None = None) -> str | None:
    """The first 12 hexadecimal digits of the weights' SHA-256; None: they are random, or not there (yet)."""
    found = None if value == RANDOM else source(entry, value, cache, trained)
    return None if found is None or not found.path.is_file() else models.sha256(found.path)[:12]
