"""Published weights: from where a library keeps them, or an error that says which file to put where."""

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.models._pretrained import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer
from torchvision.models import ResNet18_Weights

from backbones import published, vit, weights
from backbones.checkpoint import WeightsError, read
from backbones.contract import Unsupported

TINY = "test_vit"
"""An architecture of timm of 0.4 million parameters, 160 px and patch 16, with published weights."""


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No host answers, and no library has anything in its own cache."""
    monkeypatch.setattr(published, "_reachable", lambda url: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def download(repository, file, *, local_files_only):
        assert local_files_only
        raise published.EntryNotFoundError(f"no {file}")

    monkeypatch.setattr(published, "hf_hub_download", download)


def tag():
    return timm.get_pretrained_cfg(TINY).tag


def tiny():
    torch.manual_seed(2)
    return timm.create_model(TINY)


def test_a_file_of_timm_that_was_put_there_by_hand(tmp_path, offline):
    """As published today, and under the names of another time, which timm converts."""
    model, path = tiny(), tmp_path / f"{TINY}.{tag()}.safetensors"
    save_file(model.state_dict(), path)
    before = torch.random.get_rng_state()
    checkpoint = published.of_timm(TINY, tag(), path)
    assert checkpoint.native.grid == (10, 10)
    assert checkpoint.native.mean == timm.get_pretrained_cfg(TINY).mean
    save_file({f"visual.trunk.{name}": tensor for name, tensor in model.state_dict().items()}, path)
    converted = published.of_timm(TINY, tag(), path)
    assert all(torch.equal(converted.tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before), "a seeded experiment misses no random number"
    net = VisionTransformer(img_size=160, patch_size=16, embed_dim=64, depth=6, num_heads=2, num_classes=0, mlp_ratio=3)
    assert weights.adapt(checkpoint, vit.PlainTransformer(net, patch=16, size=(160, 160))).resampled == ()
    save_file({"something.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=rf"does not hold the weights of {TINY}\..*; timm says: "):
        published.of_timm(TINY, tag(), path)


def test_a_file_of_timm_is_fetched_once_and_kept_as_published(tmp_path, offline, monkeypatch):
    hub, calls = tmp_path / "hub" / "model.safetensors", []
    hub.parent.mkdir()
    save_file(tiny().state_dict(), hub, metadata={"format": "pt"})
    monkeypatch.setattr(published, "_reachable", lambda url: True)

    def download(repository, file, *, local_files_only):
        calls.append((repository, file, local_files_only))
        return str(hub)

    monkeypatch.setattr(published, "hf_hub_download", download)
    path = tmp_path / "weights" / "timm" / f"{TINY}.{tag()}.safetensors"
    for _ in range(2):
        published.of_timm(TINY, tag(), path)
    assert calls == [(f"timm/{TINY}.{tag()}", "model.safetensors", False)]
    assert path.read_bytes() == hub.read_bytes(), "so that anyone can check the digest"
    assert list(path.parent.iterdir()) == [path]


def test_an_older_file_of_the_hub_is_kept_as_its_tensors(tmp_path, offline, monkeypatch):
    old = tmp_path / "pytorch_model.bin"
    torch.save(tiny().state_dict(), old)

    def download(repository, file, *, local_files_only):
        if file != old.name:
            raise published.EntryNotFoundError("no such entry")
        return str(old)

    monkeypatch.setattr(published, "hf_hub_download", download)
    path = tmp_path / "kept.safetensors"
    published.of_timm(TINY, tag(), path)
    assert set(load_file(path)) == set(tiny().state_dict())


def test_without_a_connection_the_error_says_what_to_put_where(tmp_path, offline):
    path = tmp_path / f"{TINY}.{tag()}.safetensors"
    with pytest.raises(WeightsError) as caught:
        published.of_timm(TINY, tag(), path)
    text = str(caught.value)
    assert f"weights {TINY}.{tag()} are not there and cannot be fetched (no connection to " in text
    assert text.endswith(
        f"Take the file model.safetensors from {published.ENDPOINT}/timm/{TINY}.{tag()} and put it at {path}"
    )
    path = tmp_path / "resnet18.pth"
    with pytest.raises(WeightsError) as caught:
        published.of_torchvision("resnet18", "IMAGENET1K_V1", path)
    text = str(caught.value)
    assert text.startswith("weights ResNet18_Weights.IMAGENET1K_V1 are not there and cannot be fetched (no connection")
    assert text.endswith(f"Put {ResNet18_Weights.IMAGENET1K_V1.url} at {path}")


def test_whatever_the_hubs_library_raises_becomes_that_error(tmp_path, offline, monkeypatch):
    def download(repository, file, *, local_files_only):
        raise ZeroDivisionError("of its own\nwith more lines")

    monkeypatch.setattr(published, "_reachable", lambda url: True)
    monkeypatch.setattr(published, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"cannot be fetched \(ZeroDivisionError: of its own\)\. Take the file"):
        published.of_timm(TINY, tag(), tmp_path / "x.safetensors")


def test_weights_of_timm_that_are_a_link_alone(tmp_path, offline, monkeypatch):
    cfg = PretrainedCfg(url="https://example.invalid/net-12345678.pth", architecture="net", tag="mine")
    path = tmp_path / "net.mine.safetensors"
    with pytest.raises(
        WeightsError, match=r"net.mine are .* \(no connection to example.invalid\)\. Put https.*pth at "
    ):
        published._fetch_timm(cfg, path)
    asked = []

    def download(url, file, digest, *, progress):
        asked.append(digest)
        torch.save({"weight": torch.ones(2)}, file)

    monkeypatch.setattr(published, "_reachable", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    published._fetch_timm(cfg, path)
    assert asked == ["12345678"]
    assert torch.equal(read(path).tensors["weight"], torch.ones(2))


def test_weights_of_torchvision(tmp_path, offline):
    model = torchvision.models.resnet18()
    cached = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(model.state_dict(), cached)
    path = tmp_path / "resnet18.IMAGENET1K_V1.pth"
    checkpoint = published.of_torchvision("resnet18", "IMAGENET1K_V1", path)
    assert path.read_bytes() == cached.read_bytes()
    assert set(checkpoint.tensors) == set(model.state_dict())
    torch.save({"features.denseblock1.denselayer2.norm.1.weight": torch.ones(1)}, path)
    renamed = published.of_torchvision("densenet121", "IMAGENET1K_V1", path).tensors
    assert list(renamed) == ["features.denseblock1.denselayer2.norm1.weight"]


def test_tags_and_architectures_without_weights(tmp_path):
    with pytest.raises(WeightsError, match=rf"timm has no weights 'best' of {TINY}; there are: .*{tag()}"):
        published.of_timm(TINY, "best", tmp_path / "x.safetensors")
    with pytest.raises(
        WeightsError, match=r"no weights 'V9' of resnet50; there are: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"
    ):
        published.of_torchvision("resnet50", "V9", tmp_path / "x.pth")
    with pytest.raises(Unsupported, match="timm has no pretrained weights of vit_pico"):
        published.of_timm("vit_pico", "x", tmp_path / "x.safetensors")


def test_a_host_is_asked_for_before_a_library_tries_for_a_minute(monkeypatch):
    monkeypatch.setattr(published.urllib.request, "getproxies", dict)
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        raise OSError("no")

    monkeypatch.setattr(published.socket, "create_connection", connect)
    assert not published._reachable("https://example.invalid/x")
    assert asked == [(("example.invalid", 443), 5.0)]
    monkeypatch.setattr(published.urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert published._reachable("https://example.invalid/x"), "the proxy knows"
