"""The way from files to batches, beside torchvision's, and beside what trains on them.

``python -m tests.benchmarks.pipeline > results/MACHINE/proof/pipeline.md``, some minutes. Photographs of 640x480 px (drawn,
JPEG, quality 90) with label maps; the same transforms on both sides: zoom of 0.5 to 2 relative to covering the input, crop,
flip, jitter of colours, floats. CPU time, not wall time, so that neighbours on the machine count little; torch has one
thread.
"""

import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import bench
from bench.data import _raster as art
from bench.data import camvid, scenes
from bench.data.contract import IGNORE, Dataset
from bench.plan.environment import describe
from bench.plan.recipe import Recipe
from bench.training.loader import AHEAD, batches, shuffled
from bench.training.optim import Stepper

PICTURE, COUNT, BATCH = (480, 640), 32, 8
ZOOM, JITTER = (0.5, 2.0), 0.2
CPU = torch.device("cpu")
WANTED, SHARE, GPU = 1.5, 0.95, 1000
"""Times torchvision's images/s per core; share of the model's own training speed; images/s of a GPU that is to be fed."""


def write_photographs(folder: Path, *, count: int = COUNT, size: tuple[int, int] = PICTURE) -> Path:
    """Scenes as photographs in CamVid's layout."""
    for split in ("train", "val"):
        for kind in ("", "annot"):
            (folder / f"{split}{kind}").mkdir(parents=True)
    for index in range(count + 1):
        split = "train" if index < count else "val"
        image, owner = art.paint(scenes.describe("val", index).scene, size)
        Image.fromarray(image).save(folder / split / f"{index:03d}.jpg", quality=90)
        Image.fromarray(np.minimum(owner, 10)).save(folder / f"{split}annot" / f"{index:03d}.png")
    return folder


def opened(folder: Path, *, keep: bool) -> Dataset:
    """The photographs as our data set; without ``keep`` each is decoded whenever it is asked for."""
    data = camvid.load("camvid", task="segmentation", root=folder, cache=folder / "cache", split="train")
    if not keep:
        data._cache.limit = 0
    return data


def recipe(steps: int) -> Recipe:
    """The transforms."""
    return Recipe(steps=steps, batch=BATCH, lr=1e-4, meet="crop", scale=ZOOM, flip=True, jitter=JITTER)


def ours(data: Dataset, size: tuple[int, int], steps: int, *, workers: int = 0) -> Generator[tuple[Tensor, Any]]:
    """Batches by our second pipeline."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    return batches(data, recipe(steps), size=size, device=CPU, seed=0, mean=mean, workers=workers)


def theirs(folder: Path, size: tuple[int, int], steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches by a plain pipeline of torchvision.transforms.v2, as its documentation has it: on tensors of bytes.

    Pillow decodes, as in torchvision's data sets (its own decoders are deprecated).
    """
    fill: Any = {tv_tensors.Image: [124, 116, 104], tv_tensors.Mask: IGNORE}
    cover = max(wanted / side for wanted, side in zip(size, PICTURE, strict=True))
    steps_of = v2.Compose(
        [
            v2.ScaleJitter((round(PICTURE[1] * cover), round(PICTURE[0] * cover)), scale_range=ZOOM, antialias=True),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=JITTER, contrast=JITTER, saturation=JITTER),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
        ]
    )
    paths = sorted((folder / "train").iterdir())
    order = shuffled(len(paths), 0)
    for _ in range(steps):
        pairs = []
        for path in (paths[next(order)] for _ in range(BATCH)):
            with Image.open(path) as picture, Image.open(folder / "trainannot" / f"{path.stem}.png") as labels:
                image = v2.functional.to_image(picture.convert("RGB"))
                mask = tv_tensors.Mask(v2.functional.pil_to_tensor(labels)[0])
            pairs.append(steps_of(image, mask))
        yield torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


def race(make: dict[str, Callable[[], Iterator[Any]]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds an image of each way, round by round, in turns."""
    found: dict[str, list[float]] = {name: [] for name in make}
    for _ in range(rounds):
        for name, one in make.items():
            start, images = time.process_time(), 0
            for image, _ in one():
                images += len(image)
            found[name].append(1e3 * (time.process_time() - start) / images)
    return found


def images_a_core(folder: Path, size: tuple[int, int], *, rounds: int = 7, steps: int = 4) -> dict[str, list[float]]:
    """CPU milliseconds an image: decoded every time, kept from the first time on, and torchvision's."""
    cold, warm = opened(folder, keep=False), opened(folder, keep=True)
    for index in range(len(warm)):
        warm.whole(index, (round(size[0] * ZOOM[1]), round(size[1] * ZOOM[1])))
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "decoded": lambda: ours(cold, size, steps),
        "kept": lambda: ours(warm, size, steps),
        "torchvision": lambda: theirs(folder, size, steps),
    }
    race(ways, 1)
    return race(ways, rounds)


def training_share(
    folder: Path, *, backbone: str, size: tuple[int, int], workers: int, rounds: int = 9, steps: int = 2
) -> dict[str, list[float]]:
    """Speed of training on batches from files, as a share of that on a batch that is there, round by round, in turns.

    "CPU": by CPU time, which is what counts where the steps take all cores anyway; "wall": by the clock, where every
    round begins with nothing made ahead and its first wait counts.
    """
    data = opened(folder, keep=True)
    model = bench.build(backbone, "linear", size=size, classes=len(data.classes)).train()
    stepper = Stepper(model, recipe(steps), dtype=torch.float32, device=CPU)
    ready = next(iter(ours(data, size, 1)))
    shares: dict[str, list[float]] = {"CPU": [], "wall": []}
    for turn in range(rounds + 1):
        spent = {}
        for name in ("ready", "files"):
            start, wall = time.process_time(), time.perf_counter()
            feed = iter([ready] * steps) if name == "ready" else ours(data, size, steps, workers=workers)
            for image, target in feed:
                stepper.update(stepper.loss(image, target))
            spent[name] = {"CPU": time.process_time() - start, "wall": time.perf_counter() - wall}
        if turn:  # the first one warms up
            for kind, values in shares.items():
                values.append(spent["ready"][kind] / spent["files"][kind])
    return shares


def busy_cores(
    folder: Path, size: tuple[int, int], *, rounds: int = 7, steps: int = 8
) -> dict[int, tuple[float, float]]:
    """Threads that make batches, one or two -> cores that they and the taker keep busy, and images/s by the clock."""
    data = opened(folder, keep=False)
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, taken in found.items():
            start, wall = time.process_time(), time.perf_counter()
            with closing(ours(data, size, steps, workers=workers)) as feed:
                images = sum(len(image) for image, _ in feed)
            wall = time.perf_counter() - wall
            taken.append(((time.process_time() - start) / wall, images / wall))
    return {workers: tuple(map(statistics.median, zip(*taken, strict=True))) for workers, taken in found.items()}


def python_alone(folder: Path, *, rounds: int = 5) -> float:
    """CPU milliseconds an image where there is next to nothing to decode, scale or copy: Python's own, one at a time."""
    small = write_photographs(folder / "small", size=(16, 16))
    data = opened(small, keep=True)
    return statistics.median(race({"ours": lambda: ours(data, (16, 16), 32)}, rounds)["ours"])


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f} over {len(values)} rounds)"


def report() -> str:
    """Markdown."""
    torch.set_num_threads(1)
    lines = [
        "# From files to batches",
        "",
        f"`python -m tests.benchmarks.pipeline` on {describe().title()}, one thread of torch. Photographs of 640x480 px "
        f"(JPEG, quality 90) with label maps; zoom {ZOOM[0]} to {ZOOM[1]}, crop, flip, jitter, floats; batches of {BATCH}. "
        "CPU time an image, median over rounds taken in turns. *decoded*: every time, as in a first epoch or in a data set "
        "that the cache (1 GiB) does not hold; *kept*: decoded before.",
        "",
        "| input | pipeline | CPU ms an image | images/s a core | times torchvision's | quartiles | "
        f"cores for {GPU} images/s |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    with TemporaryDirectory() as name:
        folder = write_photographs(Path(name) / "photographs")
        for size in ((512, 512), (224, 224)):
            found = images_a_core(folder, size)
            for way, times in found.items():
                ratios = [other / mine for other, mine in zip(found["torchvision"], times, strict=True)]
                lower, middle, upper = statistics.quantiles(ratios, n=4)
                ms = statistics.median(times)
                claim = f"{middle:.2f} | {lower:.2f} to {upper:.2f}" if way != "torchvision" else "1 | "
                lines.append(
                    f"| {size[0]}x{size[1]} | {way if way == 'torchvision' else f'ours, {way}'} | {ms:.2f} | {1e3 / ms:.0f} "
                    f"| {claim} | {GPU * ms / 1e3:.1f} |"
                )
        alone = python_alone(folder)
        busy = busy_cores(folder, (512, 512))
        torch.set_num_threads(describe().cores)
        shares = training_share(folder, backbone="vit_small", size=(224, 224), workers=1)
    lines += [
        "",
        f"At 512x512 at least {WANTED} times torchvision's images/s per core is wanted.",
        "",
        "Making batches of 512x512 px, "
        + " and ".join(
            f"{n} thread(s) keep {cores:.1f} cores busy ({speed:.0f} images/s)" for n, (cores, speed) in busy.items()
        )
        + f", the taker's part included. Python's own part is {alone:.2f} ms an image "
        f"(measured on pictures of 16x16 px). It is done under one lock, so one process makes at most about "
        f"{1e3 / alone:.0f} images/s, however many cores it has.",
        "",
        f"Training ViT-S at 224x224 on {describe().cores} cores with one thread that makes batches, as a share of the speed "
        f"on a batch that is there; {SHARE} is wanted. By CPU time, which is what counts where the steps take all cores: "
        f"{_spread(shares['CPU'])}; by the clock, with whatever else the machine did: {_spread(shares['wall'])}.",
        "",
        f"Memory: the cache of decoded pictures takes at most 1 GiB a split; of batches made ahead there are at most {AHEAD} "
        "more than threads, of 3 bytes a pixel and the labels (8 images of 512x512 px with label maps: 8 MB).",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(report())
