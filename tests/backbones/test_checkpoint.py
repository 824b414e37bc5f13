"""Files of weights: what is refused, and how it is said."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones import checkpoint
from backbones.checkpoint import WeightsError


class Evil:
    """Pickles to a call, as any object may."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"model": {"weight": torch.zeros(1)}, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil.pth is refused: .* would run code .* save its tensors alone"):
        checkpoint.read(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file .*nowhere\.pth"):
        checkpoint.read(tmp_path / "nowhere.pth")
    for name in ("text.safetensors", "empty.safetensors"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"not a checkpoint" * 9)
        with pytest.raises(WeightsError, match=rf"{name} is no whole \.safetensors file"):
            checkpoint.read(tmp_path / name)
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"empty\.pth cannot be read"):
        checkpoint.read(tmp_path / "empty.pth")
    torch.save({"model": {"weight": torch.zeros(100_000)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:200_000])
    with pytest.raises(WeightsError, match=r"cut\.pth cannot be read"):
        checkpoint.read(tmp_path / "cut.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds Tensor and not tensors by name"):
        checkpoint.read(tmp_path / "tensor.pth")
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "log.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name; its keys are epoch, best"):
        checkpoint.read(tmp_path / "log.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "noted.safetensors", metadata={checkpoint.METADATA: '{"grid": 7}'})
    with pytest.raises(WeightsError, match="or its metadata is broken"):
        checkpoint.read(tmp_path / "noted.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_trained(tmp_path, suffix, value):
    path = tmp_path / f"broken{suffix}"
    tensors = {"stem": torch.zeros(3), "block": torch.tensor([1.0, value]), "attn_mask": torch.tensor([-float("inf")])}
    save = torch.save if suffix == ".pth" else save_file
    save(tensors, path)
    with pytest.raises(
        WeightsError, match=rf"broken\{suffix} is broken: 1 of its 3 tensors hold NaN or infinity \(block\)"
    ):
        checkpoint.read(path)
    save({**tensors, "block": torch.ones(2), "small": torch.ones(2).to(torch.float8_e4m3fn)}, path)
    assert set(checkpoint.read(path).tensors) == {"stem", "block", "attn_mask", "small"}
