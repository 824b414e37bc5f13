"""What ONNX Runtime is told on a GPU, by one that is not there; and what files for one hold."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from bench.plan import runtimes
from bench.plan.cell import Cell
from bench.runtimes import onnxruntime
from bench.runtimes._narrow import narrow
from bench.runtimes.contract import Options
from tests.bench.records import CELL


def test_a_call_waits_for_what_torch_still_writes_to_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = MagicMock()
    ort.get_available_providers.return_value = ["CUDAExecutionProvider"]
    session = ort.InferenceSession.return_value
    session.get_inputs.return_value = [SimpleNamespace(name="image")]
    session.get_outputs.return_value = []
    session.io_binding.return_value.get_outputs.return_value = []
    told: list[str] = []
    session.run_with_iobinding.side_effect = lambda _: told.append("run")
    stream = SimpleNamespace(synchronize=lambda: told.append("waited"))
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    run = onnxruntime.load(tmp_path, Options("cuda", "fp32", 1))
    assert list(run(torch.zeros(1, 3, 2, 2))) == []
    assert told == ["waited", "run"]


class Small(torch.nn.Module):
    """A network as runtimes take it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.conv(image)
        return found, found.argmax(dim=1)


def test_arithmetic_is_in_the_dtype_that_was_asked_for_and_the_network_stays_what_it_was() -> None:
    network, image = Small().eval(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        wanted, _ = network(image)
        for dtype, kind in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
            found, classes = narrow(network, Options("cpu", dtype, 1))(image)
            assert torch.equal(found, Small().to(kind)(image.to(kind))[0].float())
            assert 0 < (found - wanted).norm() / wanted.norm() < 2e-2
            assert classes.dtype == torch.int64
        assert torch.equal(network(image)[0], wanted)
    assert narrow(network, Options("cpu", "fp32", 1)) is network


def test_float16_is_of_cuda_alone_and_its_files_hold_float16(tmp_path: Path) -> None:
    half = Cell(**{**CELL, "runtime": "onnxruntime", "dtype": "fp16", "compile": "none", "memory_format": "contiguous"})
    assert runtimes.lacking(half) == "runtime onnxruntime has no dtype fp16; it has fp32"
    assert runtimes.lacking(replace(half, device="cuda:1")) == ""
    network, image = Small().eval(), torch.rand(1, 3, 16, 16)
    onnxruntime.export(network, image, tmp_path, Options("cuda", "fp16", 1))
    onnx = pytest.importorskip("onnx")
    held = {one.data_type for one in onnx.load(tmp_path / "model.onnx").graph.initializer if len(one.dims) == 4}
    assert held == {onnx.TensorProto.FLOAT16}
    found, _ = onnxruntime.load(tmp_path, Options("cpu", "fp32", 1))(image)
    with torch.no_grad():
        assert (found - network(image)[0]).norm() / network(image)[0].norm() < 2e-2
