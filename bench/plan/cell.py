"""A cell: every choice that decides a measurement, and nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

DTYPES = ("fp32", "tf32", "bf16", "fp16")
ATTENTION = ("auto", "fused", "unfused")
COMPILE = ("none", "default", "max-autotune", "cudagraph")
DEVICES = ("auto", "cpu", "cuda", "xpu", "mps")
FORMATS = ("contiguous", "channels_last")
WINDOWS = ("keep", "scale")
RESAMPLING = ("pinv", "bicubic")
PADDING = ("refuse", "pad")
QUANTISE: Mapping[str, str] = {
    "none": "as the dtype says",
    "int8-static": "weights (a scale a channel) and activations in int8; ranges of activations from images of train",
    "int8-dynamic": "likewise, ranges of activations from each batch as it comes",
    "int8-weights": "weights alone in int8, a scale a channel",
}
"""What is done to a trained model's numbers before it runs."""
CALIBRATED = frozenset({"int8-static"})
"""Those that take images."""


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the benchmark space, with no choice left open.

    Attributes:
        backbone: name in the catalogue of backbones.
        patch: patch size in pixels (side of the square that becomes one token).
        weights: what the backbone starts from: "random", "pretrained", "pretrained:TAG", "package:NAME",
            "trained:DIGEST", or a file's path.
        head: name in the catalogue of heads; it decides the task.
        height: of the input in pixels.
        width: of the input in pixels.
        batch: images a forward pass or a training step, for time, memory and energy.
        dtype: of weights and activations at inference; training runs under autocast to it. "fp32" multiplies in float32
            throughout, "tf32" is float32 whose matrix products and convolutions may round to TF32 (NVIDIA GPUs).
        compile: "none" (eager), a mode of torch.compile, or "cudagraph": eager kernels, replayed as one CUDA graph.
        attention: kernel: "auto" (the library's choice), "fused" or "unfused".
        device: "cpu", "cuda", ...
        threads: CPU threads of one operation while latency and memory are taken.
        dataset: data set that is trained and evaluated on; it also decides the number of classes.
        recipe: how it is trained: name of a recipe, or NAME@DIGEST of a file of one's own; "+field=value" changes it.
        seed: of initialisation, order of images and augmentation.
        window: of windowed attention away from its published size: "keep" it and pad, or "scale" it.
        resample: of pretrained patch kernels to another patch size: "pinv" (FlexiViT) or "bicubic".
        padding: of an input size that the backbone cannot take: "refuse", or "pad" it to the next one that it can.
        memory_format: of images and convolution kernels: "contiguous" or "channels_last".
        limit_mib: memory that a search for the largest batch may take; 0 for what the device has.
        runtime: what executes it: "torch", or the runtime that it is exported to (`bench.runtimes`).
        quantise: "none", or how its weights and activations are narrowed after training (`QUANTISE`).
    """

    backbone: str
    patch: int
    weights: str
    head: str
    height: int
    width: int
    batch: int
    dtype: str
    compile: str
    attention: str
    device: str
    threads: int
    dataset: str
    recipe: str
    seed: int
    window: str = "keep"
    resample: str = "pinv"
    padding: str = "refuse"
    memory_format: str = "contiguous"
    limit_mib: int = 0
    runtime: str = "torch"
    quantise: str = "none"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.height, self.width

    def part(self, names: Iterable[str]) -> dict[str, Any]:
        """The named fields, in the order of the class."""
        wanted = set(names)
        return {name: value for name, value in asdict(self).items() if name in wanted}

    def title(self) -> str:
        """Short text for people: backbone/patch, head, size, data set."""
        return f"{self.backbone}/{self.patch} {self.head} {self.height}x{self.width} {self.dataset}"


IN_TITLE = ("backbone", "patch", "head", "height", "width", "dataset")
"""Fields that a title names."""
FIELDS = tuple(field.name for field in fields(Cell))
LATER = {field.name: field.default for field in fields(Cell) if field.default is not MISSING}
"""Fields that were added after records had been made, and what those records were measured with."""
SILENT = {name: LATER[name] for name in ("runtime", "quantise")}
"""Those of them that a question leaves out where they are as ever: digests of older questions stay what they were."""
DEFAULTS: Mapping[str, Any] = {
    "patch": None,
    "weights": "random",
    "batch": 1,
    "dtype": "fp32",
    "compile": "none",
    "attention": "auto",
    "device": "auto",
    "threads": 0,
    "dataset": "scenes",
    "recipe": "short",
    "seed": 0,
    **LATER,
}
"""What a matrix takes for the axes that it does not name. None: the native patch; "auto", 0: what the machine has."""


def agrees(cell: Cell, part: Mapping[str, Any]) -> bool:
    """Whether a cell has these values in these fields."""
    return all(getattr(cell, name) == value for name, value in part.items())
