"""What ONNX Runtime is told on a GPU, by one that is not there."""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from bench.runtimes import onnxruntime
from bench.runtimes.contract import Options


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
