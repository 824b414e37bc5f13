"""Four heads on one frozen backbone: with its features kept, and end to end.

``python -m tests.benchmarks.frozen > results/MACHINE/proof/frozen.md``, some minutes. Each training passes over its images
as often as recipe `probe` over CamVid (22 times); the kept features are computed once, within the time of the first head.
CPU time of one thread, in turns: neighbours on the machine count little. Random weights cost what published ones do.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import bench
from bench.data.contract import Dataset
from bench.plan import recipe
from bench.plan.environment import describe
from bench.store.features import FeatureStore
from bench.training.features import FeatureSource
from bench.training.train import train
from tests.benchmarks.pipeline import opened, write_photographs

BACKBONE = "timm:vit_small_patch14_dinov2"
HEADS = ("linear_bn", "linear", "segmenter_pico", "dpt_pico")
"""The first one reads all levels of the backbone, so the features that it keeps serve the others."""
SIZE = (126, 168)
PASSES = 22
"""Over the images in a training: 1000 steps of 8 images over CamVid's 367."""
WANTED = 4
"""Times cheaper, for all heads together."""


@dataclass(frozen=True)
class Turn:
    """CPU seconds of each head's training, and the last losses of both ways."""

    whole: dict[str, float]
    kept: dict[str, float]
    losses: dict[str, tuple[float, float]]

    def ratio(self) -> float:
        """How many times cheaper all heads together are on kept features."""
        return sum(self.whole.values()) / sum(self.kept.values())


def turn(
    data: Dataset, folder: Path, *, backbone: str = BACKBONE, size: tuple[int, int] = SIZE, passes: int = PASSES
) -> Turn:
    """All heads once, end to end and on kept features, which are computed anew in ``folder``."""
    steps = max(1, passes * len(data) // 8)
    plan = recipe.load(f"probe+steps={steps}", "segmentation")
    found: dict[bool, dict[str, float]] = {False: {}, True: {}}
    losses: dict[str, tuple[float, float]] = {}
    store = FeatureStore(folder, 2**30)
    for head in HEADS:
        last: list[float] = []
        for kept in (False, True):
            torch.manual_seed(0)
            model = bench.build(backbone, head, size=size, classes=len(data.classes))
            source = FeatureSource(model, data, {"benchmark": "frozen"}, store) if kept else None
            began = time.process_time()
            options = {"size": size, "dtype": torch.float32, "device": torch.device("cpu"), "seed": 0}
            trained = train(model, data, plan, report=lambda *_: None, source=source, **options)
            found[kept][head] = time.process_time() - began
            last.append(trained.losses[-1])
            if source is not None:
                source.close()
        losses[head] = (last[0], last[1])
    return Turn(found[False], found[True], losses)


def report(turns: list[Turn], images: int) -> str:
    """Markdown."""
    ratios = sorted(one.ratio() for one in turns)
    machine = describe()
    median = statistics.median(ratios)
    lines = [
        "# Features of a frozen backbone, kept",
        "",
        f"Written by `python -m tests.benchmarks.frozen`. {machine.title()}, one thread, CPU time. {BACKBONE} at "
        f"{SIZE[0]}x{SIZE[1]} px, {images} photographs, {PASSES} passes with mirrored images, {len(turns)} turns.",
        "",
        f"Four heads on kept features cost {1 / median:.2f} of four end-to-end trainings of the same heads: "
        f"{median:.1f} times cheaper ({ratios[0]:.1f} to {ratios[-1]:.1f}; wanted: {WANTED}).",
        "",
        "| head | end to end (s) | kept (s) | times cheaper | last losses |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for head in HEADS:
        whole, kept = (statistics.median(getattr(one, way)[head] for one in turns) for way in ("whole", "kept"))
        one, other = turns[-1].losses[head]
        lines.append(f"| {head} | {whole:.1f} | {kept:.1f} | {whole / kept:.1f} | {one:.5f}, {other:.5f} |")
    return "\n".join([*lines, "", "The first head pays for the features of all.", ""])


def main(images: int = 24, turns: int = 3) -> None:
    """Print the report."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        data = opened(write_photographs(Path(folder) / "photographs", count=images), keep=True)
        found = [turn(data, Path(folder) / f"features{index}") for index in range(turns)]
    sys.stdout.write(report(found, images))


if __name__ == "__main__":
    main()
