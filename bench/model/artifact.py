"""The thing that is measured: a cell's model in the cell's mode, checked against eager float32 before it counts."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backbones.attention import set_attention
from backbones.contract import Unsupported
from bench.model import build, modes
from bench.model.deploy import Deployed, deploy
from bench.model.quantised import narrow
from bench.model.quick import quick_weights
from bench.model.traffic import Traffic
from bench.plan import runtimes
from bench.plan.cell import CALIBRATED, Cell
from bench.plan.measure import Context, Invalid, Outcome
from bench.timing.clock import Call
from bench.training.optim import Stepper, in_training_mode
from heads.contract import Boxes, Model, Prediction, Target, TokenHead

TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}
"""dtype -> the relative L2 distance from eager float32 up to which a row counts.

Ten times and more what was seen of the pico models at 224 px on a CPU (fp32 in other formats and kernels 3e-7, fp16
1e-3, bf16 9e-3; TF32 was not at hand), for deeper models drift further, and far below the 1 of an output that has
nothing to do with the model's."""

NOISE = "noise, for a model that nobody has trained: what it costs counts, and not what it finds"
"""By which ranges of activations are found where time and memory are measured."""

COMPARED = 2
"""Images that are run in eager float32 for it: float32 for the whole batch could need more memory than the cell."""

CANDIDATES = 1000
"""Boxes an image that go into the NMS of a detector with random weights, where its head has as many."""

ALIKE = 0.95
"""Share of a prediction that must be the same with the decoding in the graph for its time to count. NMS and argmax
choose between what is nearly as good, so it need not be all of it."""

NEAR, CLOSE = 0.1, 1e-3
"""Pixels and score up to which two boxes of a class are the same."""

OBJECTS = 8
"""Objects an image in the made-up truth that the cost of a training step is measured with."""


@dataclass
class Artifact:
    """A model ready to be timed, in inference mode.

    Attributes:
        net: backbone and head in the cell's dtype, memory format and device.
        image: (B, 3, H, W), the batch that it is fed with.
        run: the model in the cell's mode (compiled, recorded, or itself).
        device: where it lies.
        deviation: relative L2 distance of its outputs from those of eager float32.
        compile_s: seconds that the first call took beyond a later one; None in eager mode.
        candidates: boxes an image that go into NMS; None where the head has no NMS.
        traffic: of the first call, in eager mode; None in others.
        deployed: the network in its runtime, where that is not torch.
        whole: likewise, with its decoding in the graph; None where it is decoded in torch.
        decoding: of what runs elsewhere, where it is decoded, and why not in the graph.
    """

    net: Model
    image: Tensor
    run: Callable[[Tensor], Any]
    device: torch.device
    deviation: float
    compile_s: float | None
    candidates: int | None
    traffic: Traffic | None = None
    deployed: Deployed | None = None
    whole: Deployed | None = None
    decoding: str | None = None

    def forward(self) -> Any:
        """Backbone and head."""
        return self.run(self.image)

    def parts(self, cell: Cell) -> dict[str, Call]:
        """What else can be timed of it, by name.

        "backbone" and "head" in eager mode alone, for a compiled or exported model is one graph, and a head inside the
        backbone's blocks is no part; "post" is the decoding of one raw output (argmax or selection and NMS, at the size
        of the input), and no part where it is in a runtime's graph; "end_to_end" is image to prediction.
        """
        size = cell.size
        raw = self.forward()
        found: dict[str, Call] = {}
        if cell.compile == "none" and self.deployed is None and not isinstance(self.net.head, TokenHead):
            body = self.net.backbone
            image = self.image if body.size == size else modes.noise(cell, self.device, body.size)
            features = body(image)
            found["backbone"] = lambda: body(image)
            found["head"] = lambda: self.net.head(features, body.size)
        if (whole := self.whole) is not None:
            found["end_to_end"] = lambda: whole.run(self.image)
            return found
        found["post"] = lambda: self.net.decode(raw, size)
        found["end_to_end"] = lambda: self.net.decode(self.forward(), size)
        return found


def prepare(context: Context, *, fresh: bool = False, decoded: bool = False) -> Artifact:
    """Build a cell's model, put it into its mode and compare it with eager float32.

    Random weights are quickly drawn ones, see `bench.model.quick`. Run the artifact under ``torch.inference_mode()``.

    Args:
        context: which model, its mode, and progress.
        fresh: whether it is compiled with an empty cache, so that ``compile_s`` is that of a first time; what comes
            later, of the same cell, finds it compiled.
        decoded: whether a runtime other than torch gets the decoding in the graph, too, where it can have it.

    Raises:
        Invalid: the outputs are not finite, or further from eager float32 than `TOLERANCE`.
        Unsupported: the device, the mode or the model is not to be had.
    """
    cell = context.case.cell
    device = build.device_of(cell)
    modes.set_precision(cell, device)
    context.report("building", 0, 1)
    with quick_weights():
        net = build.of_case(context.case)
    if cell.runtime != runtimes.TORCH:
        tell_apart(net)
    net = net.to(device).eval()
    modes.set_precision(replace(cell, dtype="fp32"), device)
    few = modes.noise(cell, device)[:COMPARED].float().contiguous()
    with torch.inference_mode(), _written_out(net, cell):
        wanted = [tensor.float() for tensor in net.head.smooth(net(few))]
    modes.set_precision(cell, device)
    if cell.runtime != runtimes.TORCH:
        return _deployed(context, net, device, wanted, decoded=decoded)
    net = narrow(modes.for_inference(net, cell, device), cell, device)
    image = modes.noise(cell, device)
    run = modes.in_mode(net, cell, device)
    context.report("first call" if cell.compile == "none" else "compiling", 0, 1)
    compile_s = traffic = None
    if cell.compile == "none":
        # Counted in the call that has to be made anyway: of a slow model each one is dear.
        with torch.no_grad(), Traffic() as traffic:
            raw = run(image)
    else:
        with torch.inference_mode(), modes.empty_compiler_cache(keep=True) if fresh else contextlib.nullcontext():
            first_s = _timed(run, image)[1]
            # The second call may still record what the first has compiled.
            second_s = _timed(run, image)[1]
            raw, later_s = _timed(run, image)
            compile_s = max(0.0, first_s + second_s - 2 * later_s)
    deviation = _deviation(cell, net, raw, wanted, compile_s)
    with torch.inference_mode():
        # After the comparison: the head's outputs mean nothing from here on.
        candidates = _load(net, image)
    return Artifact(net, image, run, device, deviation, compile_s, candidates, traffic)


def tell_apart(net: torch.nn.Module) -> None:
    """Scale every weight by a factor of its own.

    Quickly drawn ones of one shape are equal, and a runtime may keep one copy of what is equal (OpenVINO does): a
    smaller file, and a cache that holds what no trained model's weights would fit into.
    """
    with torch.no_grad():
        for index, weight in enumerate(net.parameters(), 1):
            weight.mul_(1 + 1e-4 * index * (-1) ** index)  # neighbours cancel, or a deep network's outputs would grow


def _deviation(cell: Cell, net: Model, raw: Any, wanted: list[Tensor], compile_s: float | None = None) -> float:
    """Relative L2 distance of a raw output from that of eager float32, of the images that this was made of.

    Raises:
        Invalid: it is more than `TOLERANCE`, which int8 has none of: of it its accuracy says whether it is usable.
    """
    with torch.inference_mode():
        found = [tensor[: len(other)].float() for tensor, other in zip(net.head.smooth(raw), wanted, strict=True)]
        deviation = distance(found, wanted)
    if deviation <= (TOLERANCE[cell.dtype] if cell.quantise == "none" else sys.float_info.max):
        return deviation
    mode = f"{cell.dtype}, compile {cell.compile}, attention {cell.attention}, {cell.memory_format}"
    if cell.runtime != runtimes.TORCH:
        mode = f"{cell.runtime}, {cell.dtype}, {cell.quantise}"
    raise Invalid(
        f"outputs in this mode ({mode}) are {deviation:.2g} (relative L2) from those of eager fp32, more than the "
        f"{TOLERANCE[cell.dtype]:g} that {cell.dtype} is allowed: its time is that of another function",
        Outcome({"deviation": deviation if deviation < float("inf") else None, "compile_s": compile_s}),
    )


def _deployed(context: Context, net: Model, device: torch.device, wanted: list[Tensor], *, decoded: bool) -> Artifact:
    """The model in another runtime than torch; a batch is float32 as everywhere outside torch."""
    cell = context.case.cell
    image = modes.noise(replace(cell, dtype="fp32"), device)
    how: dict[str, Any] = {"report": context.report, "say": context.say}
    if cell.quantise in CALIBRATED:
        how |= {"calibration": [image], "said": NOISE}
    runs = deploy(net, image, cell, **how)
    deviation = _deviation(cell, net, runs(image), wanted)
    with torch.inference_mode():
        candidates = _load(net, image)
    if candidates is not None:  # what a detector is loaded with is in its weights, and these are in the files
        runs = deploy(net, image, cell, **how)
    ready = Artifact(net, image, runs, device, deviation, None, candidates, deployed=runs)
    if decoded:
        ready.whole, ready.decoding = _whole(ready, cell, how)
    return ready


def _whole(ready: Artifact, cell: Cell, how: Mapping[str, Any]) -> tuple[Deployed | None, str]:
    """The model with its decoding in the graph, seen to predict what torch decodes of its raw output; or why not.

    Raises nothing for that: a runtime that can do the one and not the other is measured with its decoding in torch.
    """
    try:
        whole = deploy(ready.net, ready.image, cell, decoded=True, **how)
    except Unsupported as error:
        return None, f"in torch: {error}"
    with torch.inference_mode():
        alike = agreement(ready.net.decode(ready.forward(), cell.size), whole.prediction(ready.image))
    if alike < ALIKE:
        return None, f"in torch: in the graph {1 - alike:.1%} of what it predicts are not what torch decodes"
    return whole, "in the graph"


def agreement(wanted: Prediction, found: Prediction) -> float:
    """Share of the pixels that have the same class; or of the boxes on both sides that have one like it on the other.

    Like it: of the same class, each edge within `NEAR` pixels, the score within `CLOSE`.
    """
    if isinstance(wanted, Tensor) or isinstance(found, Tensor):
        assert isinstance(wanted, Tensor), "of one model"
        assert isinstance(found, Tensor), "of one model"
        return (wanted == found).float().mean().item()
    alike, total = 0, 0
    for one, other in zip(wanted, found, strict=True):
        total += len(one.labels) + len(other.labels)
        assert one.scores is not None, "of a prediction"
        assert other.scores is not None, "of a prediction"
        same = (one.xyxy[:, None] - other.xyxy[None]).abs().amax(dim=2) < NEAR
        same &= (one.scores[:, None] - other.scores[None]).abs() < CLOSE
        same &= one.labels[:, None] == other.labels[None]
        alike += int(same.any(dim=1).sum()) + int(same.any(dim=0).sum())
    return alike / total if total else 1.0


@contextlib.contextmanager
def _written_out(net: Model, cell: Cell) -> Iterator[None]:
    """Within it an explicit choice of the attention kernel gives way to the explicit softmax, to compare it with."""
    if cell.attention == "auto":
        yield
        return
    set_attention(net.backbone, "unfused")
    try:
        yield
    finally:
        set_attention(net.backbone, cell.attention)  # pyright: ignore[reportArgumentType] - checked by the matrix


def _timed(run: Callable[[Tensor], Any], image: Tensor) -> tuple[Any, float]:
    """Result and seconds of one call, until the device is done."""
    start = time.perf_counter()
    raw = run(image)
    build.synchronize(image.device)
    return raw, time.perf_counter() - start


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest relative L2 distance of any tensor from what was wanted; infinite if one is not finite."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if not torch.isfinite(one).all():
            return float("inf")
        size = other.norm().item()
        off = (one - other).norm().item()
        worst = max(worst, off / size if size else float(off > 0))
    return worst


def _load(net: Model, images: Tensor) -> int | None:
    """Give a detector with random weights a full load for its NMS; how many boxes an image that is."""
    if net.task != "detection" or isinstance(net.head, TokenHead):
        return None
    body = net.backbone
    if body.size != tuple(images.shape[-2:]):
        images = images.new_empty(len(images), 3, *body.size).uniform_()
    return net.head.full_load(body(images), body.size, CANDIDATES) or None


@dataclass
class Training:
    """A model ready to be trained on one batch, over and over.

    deviation is the relative distance of the first loss from that of eager float32, from the same seed. A compiled
    model draws its own random numbers, and a detector samples by scores that are nearly equal, so that a sound step may
    differ by some per cent: it is a figure to look at, and no tolerance is set on it.

    Attributes:
        net: in float32, in train mode.
        image, target: the batch, with a made-up truth.
        stepper: forward and loss, backward and update.
    """

    net: Model
    image: Tensor
    target: Target
    stepper: Stepper
    device: torch.device
    deviation: float

    def step(self) -> None:
        """Forward pass, loss, backward pass, clipping, optimiser: what `bench.training.train.train` does in a step."""
        self.stepper.update(self.stepper.loss(self.image, self.target))


def prepare_training(context: Context) -> Training:
    """Build a cell's model for training steps as the recipe of its task takes them, on noise with made-up truth.

    Weights are float32 and the steps run under autocast to the cell's dtype, as in `bench.training.train.train`.

    Raises:
        Unsupported: the device or the model is not to be had, or there is no training in this mode.
    """
    case = context.case
    cell = case.cell
    device = build.device_of(cell)
    modes.set_precision(cell, device)
    if cell.compile == "cudagraph":
        raise Unsupported("a training step is not recorded as a CUDA graph here; take compile none or default")
    context.report("building", 0, 1)
    with quick_weights():
        net = build.of_case(case)
    net = net.to(device).to(memory_format=modes.memory_format(cell))
    image = modes.noise(cell, device).float().to(memory_format=modes.memory_format(cell))
    numbers = case.recipe
    in_training_mode(net, numbers)
    net.head.loss_stride = numbers.loss_stride
    run = None if cell.compile == "none" else modes.in_mode(net, cell, device)
    target = made_up(cell, case.task, len(case.classes), device, masks=case.masks)
    modes.set_precision(replace(cell, dtype="fp32"), device)
    wanted = _first_loss(Stepper(net, numbers, dtype=torch.float32, device=device), image, target)
    modes.set_precision(cell, device)
    stepper = Stepper(net, numbers, dtype=modes.DTYPES[cell.dtype], device=device, forward=run)
    context.report("first step" if run is None else "compiling", 0, 1)
    found = _first_loss(stepper, image, target)
    return Training(net, image, target, stepper, device, abs(found - wanted) / max(abs(wanted), 1e-12))


def _first_loss(stepper: Stepper, image: Tensor, target: Target) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return stepper.loss(image, target).item()


def made_up(cell: Cell, task: str, classes: int, device: torch.device, *, masks: bool) -> Target:
    """A truth of the right form for a batch: random classes in squares of 32 pixels, or `OBJECTS` boxes an image.

    Boxes have sides of an eighth to a half of the image; a mask fills its box.
    """
    generator = torch.Generator().manual_seed(1)
    height, width = cell.size
    if task == "segmentation":
        coarse = torch.randint(classes, (cell.batch, -(-height // 32), -(-width // 32)), generator=generator)
        fine = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
        return fine[:, :height, :width].contiguous().to(device)
    return [_objects(height, width, classes, generator, device, masks=masks) for _ in range(cell.batch)]


def _objects(
    height: int, width: int, classes: int, generator: torch.Generator, device: torch.device, *, masks: bool
) -> Boxes:
    size = torch.tensor([width, height])
    sides = size * (0.125 + 0.375 * torch.rand(OBJECTS, 2, generator=generator))
    start = (size - sides) * torch.rand(OBJECTS, 2, generator=generator)
    xyxy = torch.cat([start, start + sides], dim=1)
    labels = torch.randint(classes, (OBJECTS,), generator=generator)
    shapes = None
    if masks:
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        x1, y1, x2, y2 = (edge[:, None, None] for edge in xyxy.unbind(1))
        shapes = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).to(device)
    return Boxes(
        xyxy.to(device), labels.to(device), ignore=torch.zeros(OBJECTS, dtype=torch.bool, device=device), masks=shapes
    )
