"""What a runtime promises: a network becomes files, and files become a function.

A runtime is one file beside this one with a *literal* ``CATALOGUE`` of one entry, read without importing the file::

    CATALOGUE = {
        "onnxruntime": {
            "needs": ["onnxruntime", "onnxscript"],  # distributions without which it cannot run
            "extra": "onnxruntime",                  # of densebench, which has them; "": none does
            "devices": ["cpu", "cuda"],
            "dtypes": ["fp32"],                      # of its arithmetic
            "cuda_dtypes": ["fp16"],                 # optional: on CUDA these, too
            "quantise": ["none", "int8-dynamic"],    # see `bench.plan.cell.QUANTISE`
            "quantisers": [],                        # distributions that all of these but "none" take, too
        }
    }

and two functions::

    export(network: nn.Module, image: Tensor, folder: Path, options: Options) -> None
    load(folder: Path, options: Options) -> Callable[[Tensor], Sequence[Tensor]]

``export`` gets a float32 network in inference mode that takes a batch (B, 3, H, W) of RGB in 0..1 and gives a tuple of
tensors, an example of the batch (its shape is the one that the files are for, its values are noise), and an empty
folder. What it writes there is all that ``load`` reads, in another process, perhaps on another day. The function takes
such a batch and gives the same tensors on the batch's device. It uses ``options.threads`` CPU threads, and nothing
spins between two calls: others are timed then. What the runtime cannot do it raises as ``Unsupported``, with the
runtime's own words; whatever else it raises becomes one, too, but for want of memory or of a disk.

``RUN`` (optional) is Python for `densebench export`: lines that make ``outputs``, arrays in the order of the network's
tensors, of ``image`` (an array), ``here`` (the folder) and ``contract`` (see `bench.export`), without torch where that
can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Options:
    """How a network is exported and run.

    device: "cpu", "cuda", "cuda:1". dtype: of its arithmetic, one that the runtime states. threads: of a call.
    quantise: one that the runtime states. calibration: batches of images as the network takes them, by which ranges of
    activations are found; none where quantising needs none.
    decoding: what makes a prediction of the network's tensors (positional arguments, in their order), to be joined as
    it is to what was narrowed; None: the graph ends where the network does. There is one with a quantisation alone:
    otherwise the network that is given goes on to the prediction by itself.
    """

    device: str
    dtype: str
    threads: int
    quantise: str = "none"
    calibration: Sequence[Tensor] = ()
    decoding: nn.Module | None = None


class Run(Protocol):
    """A network that was loaded."""

    def __call__(self, image: Tensor, /) -> Sequence[Tensor]:
        """Outputs of a batch of the shape that it was exported for."""
        ...
