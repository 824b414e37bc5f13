"""What an architecture of timm is, and how it is built for one size: found out by building it on the meta device.

A size that an architecture cannot take is refused, and the next larger one that works is named. It is found by trying,
since a window, a block or a fixed position table shows only there.
"""

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models._features import FeatureGetterNet, FeatureInfo
from timm.models.eva import Eva
from timm.models.swin_transformer_v2_cr import SwinTransformerV2Cr
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Level, Unsupported, Window
from backbones.timm_networks import Intermediates, channels_first
from backbones.vit import quarters

PREFIX = "timm:"
FINEST = 4
"""Maps finer than this are left out where there are others: a stem's output at stride 1 or 2 serves no head."""
_WINDOWED = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
"""Files of timm whose models can change their window, and are wrapped so that they can be reached."""
_GETTER: dict[str, Any] = {"feature_cls": "getter"}
_LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What timm and torch raise for an argument or a size that an architecture does not take."""
_TRIALS = 8
"""How many larger sizes are tried for one that was refused; each costs as much as planning the model once more."""


@dataclass(frozen=True)
class Form:
    """What one architecture is, as published.

    kind: the way that its features are taken.
    strides: of all its maps; taps: the blocks that give them, None for the choice of timm.
    patch: native patch size, the finest stride that is exposed.
    divisor: what height and width must be multiples of at the native patch size, at least.
    tokenised: whether ``patch`` is a patch size of timm's and not the stride of a stem.
    input: (H, W) that the default weights were trained at.
    window: of timm's Swin V2-CR, which would scale it with the input by itself.
    """

    kind: str
    strides: tuple[int, ...]
    taps: tuple[int, ...] | None
    patch: int
    divisor: int
    tokenised: bool
    windowed: bool
    window: tuple[int, int] | None
    input: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """How to build one architecture for one size: it was done on the meta device and gave these levels.

    net: on the meta device; make: builds another one. read: indices of the maps that are the levels.
    """

    net: nn.Module
    make: Callable[[], nn.Module]
    read: tuple[int, ...]
    levels: tuple[Level, ...]


class NoDraws(TorchFunctionMode):
    """Weights are not drawn at random: on the meta device there is nothing to fill, and asking takes half the time."""

    _DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in self._DRAWS else func(*args, **(kwargs or {}))


@cache
def form_of(name: str) -> Form:
    """The architecture at its own size, built on the meta device once."""
    entrypoint = timm.models.model_entrypoint(name.partition(".")[0])
    windowed = entrypoint.__module__.rpartition(".")[2] in _WINDOWED
    with torch.device("meta"), NoDraws():
        try:
            net = timm.create_model(name, features_only=True, **_GETTER if windowed else {})
            kind = "features"
        except _LIBRARY_ERRORS:
            net = timm.create_model(name, num_classes=0)
            kind = "intermediates"
    model = net.model if isinstance(net, FeatureGetterNet) else net
    if (isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed) or isinstance(model, Eva):
        kind = "tokens"
    info = net.feature_info
    rows = info.info if isinstance(info, FeatureInfo) else cast("list[dict[str, int]]", info)
    every = [int(row["reduction"]) for row in rows]
    chooses = isinstance(net, FeatureGetterNet) or kind == "intermediates"
    taps = quarters(len(every)) if len(set(every)) == 1 and chooses else None
    if taps is not None:
        strides = [every[i] for i in taps]
    else:
        strides = [int(stride) for stride in info.reduction()] if isinstance(info, FeatureInfo) else every
    exposed = [stride for stride in strides if stride >= FINEST] or strides
    embed = getattr(model, "patch_embed", None)
    config = timm.get_pretrained_cfg(name)
    config = {} if config is None else config.to_dict()
    published = tuple(config.get("input_size", (3, 224, 224))[-2:])
    return Form(
        kind=kind,
        strides=tuple(exposed),
        taps=taps,
        patch=min(exposed),
        divisor=_divisor(exposed, published),
        tokenised=getattr(embed, "patch_size", None) in (min(exposed), (min(exposed),) * 2),
        windowed=windowed,
        window=model.window_size if isinstance(model, SwinTransformerV2Cr) else None,
        input=published,
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
    )


def whole_strides(strides: Sequence[int]) -> list[int]:
    """Strides of which each is a multiple of the finest."""
    finest = min(strides)
    return [finest * max(1, round(stride / finest)) for stride in strides]


def _divisor(strides: Sequence[int], published: tuple[int, int]) -> int:
    """What a size must be a multiple of for these strides to fit.

    Strides of which one is no multiple of the finest belong to a network that resizes the image for one of its
    branches (CrossViT: patches of 12 px, and of 16 px of the image at 14/15 or 16/17 of its size). Both branches fit
    the published size and half of it.
    """
    divisor = math.lcm(*whole_strides(strides))
    return divisor if whole_strides(strides) == list(strides) else math.lcm(divisor, *(side // 2 for side in published))


def planned(
    name: str, form: Form, patch: int, size: tuple[int, int], window: Window, asked: tuple[int, int] | None = None
) -> Plan:
    """The way of building that works at this size; ``asked`` is the size to speak of if that is another one.

    Raises:
        Unsupported: none does; names the nearest size that works if one was found.
    """
    plan, reason = _attempt(name, form, patch, size, window)
    if plan is not None:
        return plan
    asked = asked or size
    divisor = form.divisor * patch // form.patch
    for candidate in _larger(size, divisor, form.input):
        if _attempt(name, form, patch, candidate, window)[0] is not None:
            height, width = candidate
            raise Unsupported(
                f"{name} cannot take {asked[0]}x{asked[1]} px: {reason}; nearest: {height}x{width}", [candidate]
            )
    height, width = form.input
    raise Unsupported(
        f"{name} cannot take {asked[0]}x{asked[1]} px: {reason}; no larger size was found that it takes, "
        f"the published one is {height}x{width}"
    )


def _larger(size: tuple[int, int], divisor: int, published: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes worth a trial, smallest first: multiples of windows, blocks and the published size, and squares."""
    factors = {2, 3, 4, 7, 8, 12}
    steps = {divisor * factor for factor in factors}
    steps |= {math.lcm(divisor, part) for side in published for part in (side, side // 2) if part > 0}
    found = {(-(-size[0] // step) * step, -(-size[1] // step) * step) for step in steps}
    found |= {(max(pair), max(pair)) for pair in found | {size}}
    found.discard(size)
    affordable = [(h, w) for h, w in found if h * w <= 4 * size[0] * size[1]]
    return sorted(affordable, key=lambda pair: (pair[0] * pair[1], pair))[:_TRIALS]


def _attempt(name: str, form: Form, patch: int, size: tuple[int, int], window: Window) -> tuple[Plan | None, str]:
    """The first way of building and running the architecture that works, or why the most telling one does not."""
    reasons: list[str] = []
    for make in _ways(name.removeprefix(PREFIX), form, patch, size, window):
        try:
            with torch.device("meta"), torch.no_grad():
                with NoDraws():
                    net = make()
                if isinstance(net, (VisionTransformer, Eva)):
                    image = torch.empty(1, 3, *size)
                    maps = net.eval().forward_intermediates(image, indices=1, intermediates_only=True)
                    net_maps = cast("list[Tensor]", maps) * len(form.strides)
                else:
                    net_maps = net.eval()(torch.empty(1, 3, *size))
        except _LIBRARY_ERRORS as error:
            reasons.append(_reason(error))
            continue
        plan, reason = _checked(net, make, net_maps, form, patch, size)
        if plan is not None:
            return plan, ""
        reasons.append(reason)
    # A way that the architecture does not know ("unexpected keyword argument") says the least.
    told = [reason for reason in reasons if "unexpected keyword argument" not in reason]
    return None, (told or reasons)[0]


def _ways(
    name: str, form: Form, patch: int, size: tuple[int, int], window: Window
) -> Iterator[Callable[[], nn.Module]]:
    """Ways of building, the one that tells the architecture its size first."""
    base: dict[str, Any] = {} if patch == form.patch else {"patch_size": patch}
    if form.kind == "features":
        base |= {"features_only": True, **(_GETTER if form.windowed else {})}
        if form.taps is not None:
            base["out_indices"] = form.taps
    else:
        base["num_classes"] = 0

    def make(arguments: Mapping[str, Any], grid: tuple[int, int] | None = None) -> nn.Module:
        net = timm.create_model(name, **arguments)
        if form.kind != "intermediates" and grid is None:
            return net
        return Intermediates(net.model if isinstance(net, FeatureGetterNet) else net, form.taps, grid)

    if form.windowed and window == "scale":
        native = tuple(side * patch // form.patch for side in form.input)

        def scaled() -> nn.Module:
            # Built for as many tokens as published, then resized: timm scales the windows with the grid.
            net = make({**base, "img_size": native})
            model = cast("FeatureGetterNet", net).model
            cast("Callable[..., None]", model.set_input_size)(img_size=size)
            return net

        yield scaled
        return
    kept = {} if form.window is None else {"window_size": form.window}
    yield lambda: make({**base, **kept, "img_size": size})
    yield lambda: make(base)
    if form.kind != "tokens" and form.taps is not None:
        # Gemma 4 reads the shape of its grid from a tensor when it is asked for maps, which no meta tensor can tell.
        yield lambda: make(base, (size[0] // patch, size[1] // patch))


def _checked(
    net: nn.Module,
    make: Callable[[], nn.Module],
    maps: Sequence[Tensor],
    form: Form,
    patch: int,
    size: tuple[int, int],
) -> tuple[Plan | None, str]:
    """A plan if the maps are what the strides promise, up to the cells that unpadded convolutions take away."""
    read = tuple(range(len(maps)))[-len(form.strides) :]
    strides = [stride * patch // form.patch for stride in form.strides]
    widths: list[int] = []
    for index, stride in zip(read, strides, strict=True):
        channels, h, w = channels_first(maps[index], net).shape[1:]
        for cells, side in ((h, size[0]), (w, size[1])):
            wanted = side / stride
            if abs(cells - wanted) > max(3, 0.2 * wanted):
                return None, f"at stride {stride} it gives a map of {h}x{w} cells"
        widths.append(channels)
    order = sorted(range(len(read)), key=lambda i: (strides[i], i))
    whole = whole_strides(strides)
    levels = tuple(Level(whole[i], widths[i]) for i in order)
    return Plan(net, make, tuple(read[i] for i in order), levels), ""


def _reason(error: Exception) -> str:
    """One line about what the library raised; for an assertion without a text the line that failed."""
    text = " ".join(str(error).split())
    if not text:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if "timm" in Path(frame.filename).parts]
        text = (inside or frames)[-1].line or frames[-1].name
    return f"timm raises {type(error).__name__}: {text[:200]}"
