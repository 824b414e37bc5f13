from dataclasses import replace

import pytest
import torch

import bench
from backbones.contract import Unsupported
from bench.errors import UserError
from bench.model import build, modes
from bench.plan.case import resolve
from tests.bench.launchers.test_local import job


def test_build_gives_a_module_that_trains_and_predicts():
    net = bench.build("vit_pico", "linear", patch=8, size=(32, 48), classes=3)
    assert isinstance(net, torch.nn.Module)
    assert net.training
    raw = net(torch.rand(2, 3, 32, 48))
    net.loss(raw, torch.zeros(2, 32, 48, dtype=torch.int64)).backward()
    assert net.decode(raw, (32, 48)).shape == (2, 32, 48)


def test_build_takes_the_native_patch_size():
    assert bench.build("swin_pico", "linear", size=(64, 64), classes=2).backbone.levels[0].stride == 4


def test_build_on_the_meta_device_has_no_storage():
    with torch.device("meta"):
        net = bench.build("vit_base", "upernet", size=(512, 512), classes=150)
        assert all(parameter.is_meta for parameter in net.parameters())
        assert net(torch.empty(1, 3, 512, 512)).shape[:2] == (1, 150)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbone": "vit_pcio"}, UserError, "did you mean vit_pico"),
        ({"head": "liner"}, UserError, "did you mean linear"),
        ({"weights": "imagenet"}, UserError, "unknown weights 'imagenet'"),
        ({"classes": 0}, UserError, "at least 1 class"),
        ({"patch": 7}, Unsupported, "nearest: 28x42"),
        ({"patch": 4096}, Unsupported, "nearest: 63, 64"),
    ],
)
def test_build_says_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        bench.build(**{"backbone": "vit_pico", "head": "linear", "size": (32, 48), "classes": 2, **change})


def test_a_device_that_is_not_there_is_unsupported():
    cell = job("latency", device=["xpu"]).cell
    with pytest.raises(Unsupported, match=r"device xpu is wanted and torch .* sees"):
        build.device_of(cell)


def test_the_device_of_a_cell_is_made_the_current_one(monkeypatch):
    """Events and graphs go to a stream of the current device: `cuda:1` would time an idle `cuda:0`."""
    current = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    cell = job("latency").cell
    assert build.device_of(replace(cell, device="cuda:1")) == torch.device("cuda:1")
    assert current == [1]
    build.device_of(replace(cell, device="cuda"))
    build.device_of(cell)
    assert current == [1]
    with pytest.raises(Unsupported, match="cuda:2 is wanted and torch sees 2 of this kind"):
        build.device_of(replace(cell, device="cuda:2"))


def test_the_artifact_is_in_the_cells_dtype_and_in_inference_mode(tmp_path):
    cell = job("latency", dtype=["bf16"]).cell
    net = modes.for_inference(build.of_case(resolve(cell, cache=tmp_path)), cell, torch.device("cpu"))
    assert {tensor.dtype for tensor in net.parameters()} == {torch.bfloat16}
    assert not net.training
    assert modes.noise(cell, torch.device("cpu")).dtype == torch.bfloat16
