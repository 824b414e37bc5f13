"""From files to batches, beside torchvision's plain pipeline and beside a model's own speed, in one run.

``pytest tests/benchmarks/test_pipeline.py --benchmark-enable -n 0``
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.write_photographs(tmp_path_factory.mktemp("data") / "photographs", count=16)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [512, 224])
@pytest.mark.usefixtures("one_thread")
def test_images_a_core(benchmark: Any, folder: Path, side: int) -> None:
    benchmark.group = f"files to batches of {side} px"
    size = (side, side)
    rounds, steps = (5, 4) if benchmark.enabled else (2, 1)
    found = pipeline.images_a_core(folder, size, rounds=rounds, steps=steps)
    for way in ("decoded", "kept"):
        ratios = [other / mine for other, mine in zip(found["torchvision"], found[way], strict=True)]
        benchmark.extra_info[f"times torchvision's, {way}"] = statistics.median(ratios)
        if benchmark.enabled and side == 512:
            assert statistics.median(ratios) >= pipeline.WANTED, f"{way}: {sorted(ratios)}"
    benchmark.extra_info["CPU ms an image"] = {way: statistics.median(times) for way, times in found.items()}
    data = pipeline.opened(folder, keep=False)
    benchmark.pedantic(lambda: list(pipeline.ours(data, size, 1)), rounds=rounds)


@pytest.mark.parametrize("side", [64])
def test_both_make_the_same_of_a_photograph(folder: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is drawn, both show the same picture in the same colours with the same labels."""
    monkeypatch.setattr(pipeline, "ZOOM", (1.0, 1.0))
    monkeypatch.setattr(pipeline, "JITTER", 0.0)
    size = (side * 3, side * 4)
    plain = pipeline.recipe(2).model_copy(update={"flip": False})
    monkeypatch.setattr(pipeline, "recipe", lambda _: plain)
    monkeypatch.setattr(pipeline.v2, "RandomHorizontalFlip", pipeline.v2.Identity)
    data = pipeline.opened(folder, keep=True)
    # The orders differ in their seeds' use only: both are `shuffled` by seed 0.
    for (image, mask), (wanted, labels) in zip(
        pipeline.ours(data, size, 2), pipeline.theirs(folder, size, 2), strict=True
    ):
        assert image.shape == wanted.shape
        assert (image - wanted).abs().mean() < 1e-2
        assert mask.shape == labels.shape
        assert (mask != labels).float().mean() < 0.05, "theirs are half a pixel off"


@pytest.mark.slow
def test_training_from_files(benchmark: Any, folder: Path) -> None:
    benchmark.group = "training from files"
    timed = benchmark.enabled
    name, size = ("vit_small", (224, 224)) if timed else ("vit_pico", (32, 32))
    rounds, steps = (9, 2) if timed else (1, 1)
    shares = pipeline.training_share(folder, backbone=name, size=size, workers=1, rounds=rounds, steps=steps)
    found = {kind: statistics.median(values) for kind, values in shares.items()}
    benchmark.extra_info["share of the speed on a batch that is there"] = found
    assert len(shares["CPU"]) == len(shares["wall"]) == rounds
    if timed:
        assert found["CPU"] >= pipeline.SHARE, shares
    data = pipeline.opened(folder, keep=True)
    benchmark.pedantic(lambda: list(pipeline.ours(data, size, 1, workers=1)), rounds=rounds)
