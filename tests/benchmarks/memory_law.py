"""Memory of attention against its law: what is measured, beside a closed form that was derived by hand.

``python -m tests.benchmarks.memory_law > results/MACHINE/proof/memory_law.md``; one thread, 1 GiB at most, two minutes.

The peak of a plain vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) in evaluation mode, in bytes of
tensors that are alive at a time. B images of H x W pixels in patches of P are N = H W / P^2 + 1 tokens each (one is the
class token) of width D; there are h attention heads, an MLP of 4 D, and 4 bytes a number. Units: a = 4 B N D, the
tokens; S = 4 B h N^2, one tensor of attention scores; I = 12 B H W, the images.

In a block, above its input, are alive at a time

* in attention: the normed tokens (a), queries, keys and values (3 a), and then
  fused: the heads' result (a) and its projection (a), 6 a in all, for scores never are a tensor;
  unfused: scaled queries (a), and scores before and after their softmax (2 S), 5 a + 2 S in all. (Products of matrices
  copy queries and keys, or values, where there are several images: 7 a + S, which is never the largest of the three.);
* in the MLP: the sum with attention (a), its norm (a), the hidden layer before and after GELU (4 a + 4 a), 10 a in all.

So a block's peak is 10 a fused, and max(10 a, 5 a + 2 S) unfused. The whole transformer keeps around its last blocks
the normalised images (I), the block's input (a) and what it has tapped after three quarters of its depth (3 a):
I + 4 a + block. Normalising holds the images twice (2 I), which is more where patches are large.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from statistics import linear_regression

import torch

from backbones import swin, vit
from backbones.contract import Attention, Backbone
from bench.model.storage import MIB, live_peak

NAMES = ("vit_pico", "vit_tiny")
SIZES = (128, 192, 256, 320, 384, 448, 512)
PATCHES = (8, 16, 32)
KERNELS: tuple[Attention, ...] = ("fused", "unfused")
MOST = 1024 * MIB
"""Configurations whose law says more are left out."""
SWIN_SIZES = (224, 448, 672)
"""Inputs whose maps windows of 7 divide in every stage, so that nothing is padded."""

ABOUT = """# Peak memory of attention, and the law that it should follow

Bytes of tensors alive at the peak of a forward pass of a plain ViT (no head), as the measure `memory` counts them on a
CPU, beside the closed form in the docstring of `tests/benchmarks/memory_law.py`. Written by
`python -m tests.benchmarks.memory_law`.
"""


@dataclass(frozen=True)
class Point:
    """One configuration: bytes that the law says and that were measured, of a block and of the whole backbone."""

    name: str
    attention: Attention
    size: int
    patch: int
    batch: int
    tokens: int
    block_law: int
    block: int
    whole_law: int
    whole: int


def law(name: str, *, size: int, patch: int, batch: int, attention: Attention) -> tuple[int, int]:
    """Bytes at the peak of one block, and of the whole backbone, of square images of ``size`` pixels."""
    facts = vit.CATALOGUE[name]
    count = (size // patch) ** 2 + 1
    tokens = 4 * batch * count * facts["width"]
    scores = 4 * batch * facts["heads"] * count**2
    images = 12 * batch * size**2
    block = 10 * tokens if attention == "fused" else max(10 * tokens, 5 * tokens + 2 * scores)
    return block, max(2 * images, images + 4 * tokens + block)


def point(name: str, *, size: int, patch: int, batch: int, attention: Attention) -> Point:
    """The law and the measurement."""
    net = vit.build(name, patch=patch, size=(size, size), attention=attention).eval()
    count = (size // patch) ** 2 + 1
    block_law, whole_law = law(name, size=size, patch=patch, batch=batch, attention=attention)
    with torch.inference_mode():
        tokens = torch.randn(batch, count, net.width)
        block = live_peak(lambda: net.block(0, tokens))
        whole = peak(net, size, batch)
    return Point(name, attention, size, patch, batch, count, block_law, block, whole_law, whole)


def peak(net: Backbone, size: int, batch: int = 1) -> int:
    """Bytes at the peak of a backbone on square images."""
    image = torch.rand(batch, 3, size, size)
    with torch.inference_mode():
        return live_peak(lambda: net(image))


def points() -> Iterator[Point]:
    """Every configuration that is small enough, smallest models first."""
    for name, attention, patch, size in product(NAMES, KERNELS, PATCHES, SIZES):
        if law(name, size=size, patch=patch, batch=1, attention=attention)[1] <= MOST:
            yield point(name, size=size, patch=patch, batch=1, attention=attention)


def swin_peaks(name: str) -> dict[int, int]:
    """Tokens -> bytes at the peak of a Swin at its native patch size."""
    patch = swin.CATALOGUE[name]["patch"]
    nets = {size: swin.build(name, patch=patch, size=(size, size), attention="unfused").eval() for size in SWIN_SIZES}
    return {net.tokens: peak(net, size) for size, net in nets.items()}


def exponent(tokens: Sequence[int], peaks: Sequence[int]) -> float:
    """x of the power law bytes = c tokens^x through the points, by least squares of the logarithms."""
    return linear_regression([log(count) for count in tokens], [log(size) for size in peaks]).slope


def report() -> str:
    """Markdown."""
    found = list(points())
    names = "backbone | attention | patch | input | tokens | block, law (MiB) | block, measured | off"
    names += " | whole, law (MiB) | whole, measured | off"
    lines = [ABOUT, f"torch {torch.__version__}, one image, float32.", "", f"| {names} |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    lines += [
        f"| {one.name} | {one.attention} | {one.patch} | {one.size} | {one.tokens} "
        f"| {_compared(one.block_law, one.block)} | {_compared(one.whole_law, one.whole)} |"
        for one in found
    ]
    off = max(abs(one.block / one.block_law - 1) for one in found)
    off = max(off, *(abs(one.whole / one.whole_law - 1) for one in found))
    lines += ["", f"Largest deviation of {2 * len(found)} peaks from the law: {100 * off:.4f} %.", ""]
    lines += ["How the peak grows with the number of tokens N, fitted as N^x over the sizes above:", ""]
    lines += ["| backbone | attention | patch | tokens | x |", "| --- | --- | ---: | --- | ---: |"]
    for name, attention, patch in product(NAMES, KERNELS, PATCHES[:2]):
        row = [one for one in found if (one.name, one.attention, one.patch) == (name, attention, patch)]
        lines.append(_growth(f"{name} | {attention} | {patch}", [p.tokens for p in row], [p.whole for p in row]))
    for name in ("swin_pico", "swin_tiny"):
        peaks = swin_peaks(name)
        title = f"{name} | unfused | {swin.CATALOGUE[name]['patch']}"
        lines.append(_growth(title, list(peaks), list(peaks.values())))
    return "\n".join([*lines, ""])


def _compared(expected: int, measured: int) -> str:
    return f"{expected / MIB:.3f} | {measured / MIB:.3f} | {100 * (measured / expected - 1):.4f} %"


def _growth(title: str, tokens: Sequence[int], peaks: Sequence[int]) -> str:
    return f"| {title} | {tokens[0]} to {tokens[-1]} | {exponent(tokens, peaks):.3f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(report())
