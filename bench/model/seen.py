"""How torch sees the machine; apart from `bench.model.probe`, for this takes nothing but torch to be loaded."""

import warnings
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """name: "cuda:0". model: what its maker calls it. memory_gib: None where torch does not tell."""

    name: str
    model: str
    memory_gib: float | None


@dataclass(frozen=True)
class Torch:
    """How torch sees the machine.

    cuda, hip: version that it was built for; None: built without. devices: beside the CPU. said: why CUDA does not
    work, in torch's words, or what it warned of.
    """

    version: str
    cuda: str | None
    hip: str | None
    devices: tuple[Device, ...]
    said: str


def devices() -> Torch:
    """What torch computes on here, beside the CPU."""
    found: list[Device] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if torch.accelerator.is_available():
                kind = torch.accelerator.current_accelerator()
                assert kind is not None
                found = [_device(f"{kind.type}:{index}") for index in range(torch.accelerator.device_count())]
            elif torch.version.cuda:
                torch.cuda.init()  # says why not
        except (RuntimeError, AssertionError) as error:
            said = [str(error)]
        else:
            said = []
    said += [str(warning.message) for warning in caught]
    return Torch(str(torch.__version__), torch.version.cuda, torch.version.hip, tuple(found), " ".join(said))


def _device(name: str) -> Device:
    device = torch.device(name)
    if device.type == "mps":
        return Device(name, "Apple GPU", None)
    properties = torch.get_device_module(device.type).get_device_properties(device)
    return Device(name, properties.name, round(properties.total_memory / 2**30, 1))
