"""The axis ``weights``: what a value means, which file it is, and what becomes of it in a model and in a record."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ViT_B_16_Weights, resnet18, vit_b_16

import backbones.published
import backbones.resample
import backbones.weights
import bench
from backbones.contract import Unsupported
from bench import catalogue, run
from bench.catalogue import Entry
from bench.errors import UserError
from bench.launchers.contract import Finished
from bench.plan import matrix, models, weights
from bench.plan.case import resolve
from bench.plan.dataset import Roots
from bench.plan.environment import describe
from bench.store.store import Store
from tests.bench.launchers.test_local import job

TIMM = ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of our own, and no way out of this machine."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbones.published, "_reachable", lambda url: False)
    return tmp_path / "cache"


@pytest.fixture
def mine(tmp_path):
    """A saved vit_pico at 64 px."""
    torch.manual_seed(7)
    path = tmp_path / "mine.safetensors"
    backbones.weights.save(bench.build("vit_pico", "linear", size=(64, 64), classes=2).backbone, path)
    return path


def entry(name="x", **facts):
    return Entry(name, "m", Path("m.py"), "", facts)


def test_values(mine):
    for value in ("random", "pretrained", "pretrained:augreg_in21k_ft_in1k", "pretrained:IMAGENET1K_V2", str(mine)):
        assert weights.check(value) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("pretrianed", r"unknown weights 'pretrianed': did you mean pretrained"),
        (
            "imagenet",
            r"unknown weights 'imagenet': there is: FILE\.bin, FILE\.pt, .* pretrained:TAG, random, trained:DIGEST$",
        ),
        ("pretrained:", "unknown weights 'pretrained:'"),
        ("pretrained:../x", "unknown weights"),
        ("mine.npz", "unknown weights 'mine.npz'"),
        ("no/such.safetensors", r"weights 'no/such\.safetensors': there is no such file \(looked from /"),
        (3, r"weights are a text \(random, .*\), 3 came"),
    ],
)
def test_what_is_no_value(value, message):
    with pytest.raises(UserError, match=message):
        weights.check(value)


@pytest.mark.parametrize(
    ("given", "value", "path"),
    [
        (entry(timm="net", tag="one"), "pretrained", "timm/net.one.safetensors"),
        (entry(timm="net", tag="one"), "pretrained:two", "timm/net.two.safetensors"),
        (entry("timm:net", tag="one"), "pretrained", "timm/net.one.safetensors"),
        (entry("timm:net.two", tag="two"), "pretrained", "timm/net.two.safetensors"),
        (entry(torchvision="net", tag="V1"), "pretrained", "torchvision/net.V1.pth"),
        (entry(torchvision="net"), "pretrained", "torchvision/net.DEFAULT.pth"),
        (entry(torchvision="net"), "pretrained:V2", "torchvision/net.V2.pth"),
    ],
)
def test_where_published_weights_lie(given, value, path):
    found = weights.source(given, value, Path("cache"))
    assert found == weights.Source(
        path.partition("/")[0], Path("cache/weights") / path, "net", path.partition(".")[2].partition(".")[0]
    )


def test_where_a_file_lies_and_what_nobody_published():
    assert weights.source(entry(), "a.pth", Path("cache")) == weights.Source("file", Path("a.pth"))
    assert weights.source(entry(), "~/a.pth", Path("cache")).path == Path.home() / "a.pth"
    assert weights.source(entry(), "pretrained", Path("cache")) is None
    assert weights.source(entry("timm:net", tag=""), "pretrained", Path("cache")) is None


def test_every_published_source_of_the_catalogue_is_known_to_its_library(cache):
    """The names in the catalogue are those of the libraries, and a default tag is one of the architecture's."""
    found = 0
    for one in catalogue.entries("backbones").values():
        source = weights.source(one, "pretrained", cache)
        if source is None:
            continue
        found += 1
        if source.library == "timm":
            known = timm.models.get_arch_pretrained_cfgs(source.architecture)
            assert known[f"{source.architecture}.{source.tag}"].has_weights, one.name
        else:
            assert source.tag in torchvision.models.get_model_weights(source.architecture).__members__, one.name
    assert found > 10


def test_a_digest_follows_the_file(tmp_path, cache):
    path = tmp_path / "x.pth"
    path.write_bytes(b"one")
    first = weights.digest(entry(), str(path), cache)
    assert first == hashlib.sha256(b"one").hexdigest()[:12]
    path.write_bytes(b"other")
    assert weights.digest(entry(), str(path), cache) == hashlib.sha256(b"other").hexdigest()[:12]
    assert weights.digest(entry(), "random", cache) is None
    assert weights.digest(entry(), "pretrained", cache) is None
    assert weights.digest(entry(timm="net", tag="one"), "pretrained", cache) is None, "not there yet"
    path.unlink()
    assert weights.digest(entry(), str(path), cache) is None


def test_a_file_is_read_once_for_its_digest(tmp_path, cache, monkeypatch):
    path = tmp_path / "x.pth"
    path.write_bytes(b"once")
    weights.digest(entry(), str(path), cache)
    monkeypatch.setattr(models.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    weights.digest(entry(), str(path), cache)


def test_build_loads_a_file_at_another_size_and_patch(mine):
    saved = bench.build("vit_pico", "linear", size=(64, 64), classes=2, weights=str(mine)).backbone
    torch.manual_seed(7)
    first = bench.build("vit_pico", "linear", size=(64, 64), classes=2).backbone
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), saved.parameters(), strict=True))
    kernels = [
        bench.build("vit_pico", "linear", patch=8, size=(64, 96), classes=2, weights=str(mine), resample=how)
        .backbone.get_submodule("transformer.patch_embed.proj")
        .weight
        for how in ("pinv", "bicubic")
    ]
    wanted = first.get_submodule("transformer.patch_embed.proj").weight
    assert torch.equal(kernels[0], backbones.resample.patch_kernel(wanted, (8, 8), "pinv"))
    assert torch.equal(kernels[1], backbones.resample.patch_kernel(wanted, (8, 8), "bicubic"))


def test_a_padded_size_is_loaded_at_the_size_of_the_backbone(mine):
    net = bench.build("vit_pico", "linear", size=(60, 70), classes=2, weights=str(mine), padding="pad")
    assert net.backbone.size == (64, 80)


def test_the_head_of_a_seed_is_the_same_whatever_the_backbone_starts_from(mine):
    heads = []
    for value in ("random", str(mine)):
        torch.manual_seed(3)
        heads.append(bench.build("vit_pico", "upernet", size=(64, 64), classes=2, weights=value).head)
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))


def test_build_takes_published_weights_of_timm(cache):
    torch.manual_seed(1)
    full = timm.create_model(TIMM[0])
    path = cache / "weights" / "timm" / f"{'.'.join(TIMM)}.safetensors"
    path.parent.mkdir(parents=True)
    save_file(full.state_dict(), path)
    for value in ("pretrained", f"pretrained:{TIMM[1]}"):
        net = bench.build("vit_tiny", "linear", size=(96, 64), classes=2, weights=value)
        mine = net.backbone.published.state_dict()
        assert torch.equal(mine["blocks.7.mlp.fc1.weight"], full.state_dict()["blocks.7.mlp.fc1.weight"])
        assert net.backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5], "AugReg was trained with other means"


def test_build_takes_a_member_of_torchvisions_enumeration(cache):
    full = resnet18()
    path = cache / "weights" / "torchvision" / "resnet18.IMAGENET1K_V1.pth"
    path.parent.mkdir(parents=True)
    torch.save(full.state_dict(), path)
    for value in (ResNet18_Weights.IMAGENET1K_V1, "pretrained:IMAGENET1K_V1"):
        net = bench.build("torchvision:resnet18", "fcos_pico", size=(64, 64), classes=3, weights=value)
        assert torch.equal(net.backbone.published.state_dict()["layer4.1.conv2.weight"], full.layer4[1].conv2.weight)


@pytest.mark.slow
def test_the_quick_start_of_a_vision_transformer_of_torchvision(cache):
    """Its published file as torchvision names and writes it, at another size than it was trained for."""
    weights = ViT_B_16_Weights.IMAGENET1K_V1
    full = vit_b_16()
    path = cache / "weights" / "torchvision" / "vit_b_16.IMAGENET1K_V1.pth"
    path.parent.mkdir(parents=True)
    torch.save(full.state_dict(), path)
    net = bench.build("torchvision:vit_b_16", "linear", size=(64, 96), classes=3, weights=weights)
    path.unlink()  # a third of a gigabyte
    mine, theirs = net.backbone.published.state_dict(), full.state_dict()
    name = "encoder.layers.encoder_layer_7.mlp.0.weight"
    assert torch.equal(mine[name], theirs[name])
    assert torch.equal(mine["encoder.pos_embedding"][:, 0], theirs["encoder.pos_embedding"][:, 0])
    assert mine["encoder.pos_embedding"].shape == (1, 1 + 4 * 6, 768)
    preset = weights.transforms()
    assert net.backbone.mean.flatten().tolist() == pytest.approx(preset.mean)
    assert net.backbone.std.flatten().tolist() == pytest.approx(preset.std)


def test_the_quick_start_says_what_to_put_where(cache):
    with pytest.raises(UserError) as caught:
        bench.build("torchvision:resnet50", "fcos", size=(512, 512), classes=20, weights=ResNet50_Weights.IMAGENET1K_V2)
    text = str(caught.value)
    assert text.startswith("torchvision:resnet50 with weights 'pretrained:IMAGENET1K_V2': weights ResNet50_Weights.IM")
    assert text.endswith(
        f"Put {ResNet50_Weights.IMAGENET1K_V2.url} at {cache}/weights/torchvision/resnet50.IMAGENET1K_V2.pth"
    )


@pytest.mark.parametrize(
    ("backbone", "value", "error", "message"),
    [
        ("vit_pico", "pretrained", Unsupported, "nobody has published weights of vit_pico; take weights='random' or"),
        ("vit_tiny", "pretrained:best", UserError, "timm has no weights 'best' of vit_tiny_patch16_224; there are: "),
        (
            "vit_tiny",
            "pretrained",
            UserError,
            r"cannot be fetched \(no connection to .* and put it at /.*\.safetensors",
        ),
        ("torchvision:resnet18", "pretrained:V9", UserError, "no weights 'V9' of resnet18; there are: DEFAULT, IMAGE"),
        (
            "torchvision:resnet18",
            ResNet50_Weights.DEFAULT,
            UserError,
            "not the weights of torchvision:resnet18; take a mem",
        ),
        (
            "vit_tiny",
            ResNet50_Weights.DEFAULT,
            UserError,
            "weights of torchvision, and vit_tiny is no backbone of torch",
        ),
        ("vit_pico", "nowhere.pth", UserError, "there is no such file"),
    ],
)
def test_build_says_what_is_wrong_with_weights(backbone, value, error, message):
    with pytest.raises(error, match=message):
        bench.build(backbone, "linear", size=(64, 64), classes=2, weights=value)


def test_a_file_of_another_network_is_a_mistake_and_names_the_backbone(mine):
    with pytest.raises(
        UserError, match=r"^deit_pico with weights '.*': these weights are not those of this Plain.* missing"
    ):
        bench.build("deit_pico", "linear", size=(64, 64), classes=2, weights=str(mine))


def test_on_the_meta_device_nothing_is_read(tmp_path):
    """Complexity of pretrained rows needs no file, and still knows what cannot be."""
    cell = job("complexity", backbone=["vit_tiny"], weights=["pretrained"]).cell
    with torch.device("meta"):
        net = bench.model.build.of_case(resolve(cell, cache=tmp_path))
        assert all(parameter.is_meta for parameter in net.parameters())
        with pytest.raises(Unsupported, match="nobody has published"):
            bench.build("vit_pico", "linear", size=(64, 64), classes=2, weights="pretrained")


QUESTION = """
question = "What do weights change?"
[[grid]]
measure = "memory"
backbone = "vit_pico"
weights = ["random", "mine.safetensors"]
resolution = 64
head = "linear"
[[grid]]
measure = "memory"
backbone = "vit_tiny"
weights = "pretrained"
resolution = 60
padding = "pad"
head = "linear"
"""


def densebench(folder, *words, code=0):
    proxies = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    environment = {
        **os.environ,
        **dict.fromkeys(proxies, ""),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
        "PYTHONPATH": str(catalogue.ROOT),
    }
    command = [sys.executable, "-m", "bench", "run", "--machine", "here", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def todo(folder):
    """What the same command would measure again, by the weights."""
    plan = run.plan(matrix.load("mine.toml"), describe(), Store(folder / "results" / "here"), Roots())
    return [planned.job.cell.weights for planned in plan.todo]


@pytest.mark.slow
def test_a_record_holds_the_digest_of_its_weights(tmp_path, mine, cache, monkeypatch):
    """Other bytes under the same name are measured again, the same are not, and what was not fetched is tried again."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(QUESTION)
    assert todo(tmp_path) == ["random", "mine.safetensors", "pretrained"]
    densebench(tmp_path, "--matrix", "mine.toml", code=1)  # a measurement without a number
    records = {record.fields["weights"]: record for record in Store(tmp_path / "results" / "here").records()}
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()[:12]
    assert {name: (record.status, record.inputs) for name, record in records.items()} == {
        "random": ("ok", {}),
        "mine.safetensors": ("ok", {"weights": digest}),
        "pretrained": ("error", {}),
    }
    published = cache / "weights" / "timm" / f"{'.'.join(TIMM)}.safetensors"
    assert records["pretrained"].reason.endswith(f"and put it at {published}")
    assert todo(tmp_path) == ["pretrained"]
    published.parent.mkdir(parents=True)
    published.write_bytes(b"as a worker would have fetched it")
    job = run.plan(matrix.load("mine.toml"), describe(), Store(tmp_path / "none"), Roots()).planned[-1].job
    record = run._record(Finished(job, "ok", "", "", 0.0, {"latency_ms": 1.0}), describe())
    assert record.inputs == {"weights": hashlib.sha256(published.read_bytes()).hexdigest()[:12]}
    assert record.key == job.key != records["pretrained"].key
    mine.write_bytes(mine.read_bytes() + b"edited")
    assert todo(tmp_path) == ["mine.safetensors", "pretrained"]


def test_options_of_the_command_line(tmp_path, mine):
    words = ("--backbone", "vit_pico", "--measure", "accuracy", "--head", "linear")
    options = (
        "--weights",
        f"pretrained:a,{mine}",
        "--window",
        "scale",
        "--resample",
        "bicubic",
        "--force",
        "--padding",
        "pad",
    )
    environment = {**os.environ, "PYTHONPATH": str(catalogue.ROOT)}
    command = [sys.executable, "-m", "bench", "run", "--dry-run", "--json", *words, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    fields = [row["fields"] for row in json.loads(done.stdout)]
    assert {one["weights"] for one in fields} == {"pretrained:a", str(mine)}
    assert {(one["window"], one["resample"], one["padding"]) for one in fields} == {("scale", "bicubic", "pad")}


def test_a_missing_file_is_named_before_anything_runs(tmp_path):
    error = densebench(tmp_path, "--weights", "nowhere.safetensors", code=2)
    assert "--weights: weights 'nowhere.safetensors': there is no such file" in error
