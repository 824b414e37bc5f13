"""Weights that timm and torchvision publish: found by tag, fetched once, kept as published, under present names."""

import re
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Collection
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from timm.models import clean_state_dict, get_arch_pretrained_cfgs
from timm.models._pretrained import PretrainedCfg
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from backbones.checkpoint import KERNELS, Checkpoint, Native, WeightsError, read, whole_file
from backbones.contract import Unsupported

_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's weights are called on the hub; the second where there is no first."""
_TIMEOUT_S = 5.0


def of_timm(architecture: str, tag: str, path: Path) -> Checkpoint:
    """Weights that timm publishes, under timm's present names.

    Args:
        architecture: "vit_tiny_patch16_224".
        tag: "augreg_in21k_ft_in1k".
        path: where the published file lies, or is put when it has been fetched.

    Raises:
        Unsupported: nobody published weights of this architecture.
        WeightsError: an unknown tag (lists those that there are), a file that does not fit, or one that is not there
            and cannot be fetched: says which file to put where.
    """
    known = {name.partition(".")[2]: cfg for name, cfg in get_arch_pretrained_cfgs(architecture).items()}
    known = {name: cfg for name, cfg in known.items() if cfg.has_weights}
    _check_tag("timm", architecture, tag, known)
    cfg = known[tag]
    if not path.is_file():
        _fetch_timm(cfg, path)
    tensors = _in_timms_names(f"{architecture}.{tag}", path)
    kernel = next((tensor for name, tensor in tensors.items() if name.endswith(KERNELS)), None)
    grid = None if kernel is None else (cfg.input_size[1] // kernel.shape[-2], cfg.input_size[2] // kernel.shape[-1])
    return Checkpoint(tensors, Native(grid, mean=cfg.mean, std=cfg.std, whole=True))


def of_torchvision(architecture: str, tag: str, path: Path) -> Checkpoint:
    """Weights that torchvision publishes.

    Args:
        architecture: "resnet50".
        tag: member of its enumeration, "IMAGENET1K_V2".
        path: where the published file lies, or is put when it has been fetched.

    Raises:
        Unsupported, WeightsError: as `of_timm`.
    """
    known = get_model_weights(architecture).__members__
    _check_tag("torchvision", architecture, tag, known)
    if not path.is_file():
        _fetch_torchvision(known[tag], path)
    # DenseNet's files are older than torch's ban on dots in names.
    tensors = {_DENSE_LAYER.sub(r"\1\2.", name): tensor for name, tensor in read(path).tensors.items()}
    return Checkpoint(tensors, Native(whole=True))


def _check_tag(library: str, architecture: str, tag: str, known: Collection[str]) -> None:
    if not known:
        raise Unsupported(f"{library} has no pretrained weights of {architecture}; take weights='random' or a file")
    if tag not in known:
        raise WeightsError(f"{library} has no weights '{tag}' of {architecture}; there are: {', '.join(sorted(known))}")


def _in_timms_names(model: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a published file, which may be older than timm's present names: timm knows how to convert them."""
    tensors = clean_state_dict(dict(read(path).tensors))
    # The library's model draws random numbers that a seeded experiment must not miss.
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            present = timm.create_model(model).state_dict()
        if {name: t.shape for name, t in present.items()} == {name: t.shape for name, t in tensors.items()}:
            return tensors
        try:
            with torch.device("cpu"):
                full = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
        except (RuntimeError, KeyError, AttributeError, ValueError) as error:
            raise WeightsError(f"{path} does not hold the weights of {model}; timm says: {str(error)[:500]}") from error
    return full.state_dict()


def _fetch_timm(cfg: PretrainedCfg, path: Path) -> None:
    name = f"{cfg.architecture}.{cfg.tag}"
    if not cfg.hf_hub_id:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "download.pth"
            _download(name, str(cfg.url), file, path)
            _keep(file, path)
        return
    online = _reachable(ENDPOINT)
    reason = "" if online else f"no connection to {ENDPOINT}"
    for file in _HUB_FILES:
        try:
            _keep(Path(hf_hub_download(cfg.hf_hub_id, file, local_files_only=not online)), path)
        except EntryNotFoundError as error:
            reason = reason or str(error).strip().partition("\n")[0]
        except WeightsError:
            raise
        except Exception as error:  # noqa: BLE001 - of its network libraries, which change; the reason is passed on
            reason = reason or f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            return
    raise WeightsError(
        f"weights {name} are not there and cannot be fetched ({reason}). Take the file {_HUB_FILES[0]} from "
        f"{ENDPOINT}/{cfg.hf_hub_id} and put it at {path}"
    )


def _fetch_torchvision(weights: WeightsEnum, path: Path) -> None:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if cached.is_file():
        _keep(cached, path)
        return
    _download(str(weights), weights.url, path, path)


def _download(name: str, url: str, file: Path, path: Path) -> None:
    """Fetch ``url`` to ``file``; ``path`` is where the user would have to put it."""
    stated = torch.hub.HASH_REGEX.search(url.rpartition("/")[2])
    reason = f"no connection to {urllib.parse.urlsplit(url).hostname}"
    if _reachable(url):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), stated[1] if stated else None, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: the digest in the file's name is not the file's
            reason = str(error)
        else:
            return
    raise WeightsError(f"weights {name} are not there and cannot be fetched ({reason}). Put {url} at {path}")


def _keep(file: Path, path: Path) -> None:
    """Copy a published file as it is; one of another format than the wanted name says, as its tensors."""
    with whole_file(path) as partial:
        if file.suffix == path.suffix or path.suffix != ".safetensors":
            shutil.copyfile(file, partial)
        else:
            tensors = read(file).tensors
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)


def _reachable(url: str) -> bool:
    """Whether the host answers, or a proxy may ask it: without this the hub's library tries for most of a minute."""
    parts = urllib.parse.urlsplit(url)
    if {parts.scheme, "all"} & set(urllib.request.getproxies()):
        return True
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True
