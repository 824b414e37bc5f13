"""Whether torch computes on what is asked for: it is asked once, in another process, before anything is planned.

nvidia-smi tells what there is, quickly and without torch; whether torch can use it only torch knows (a driver that is
too old for it, a torch built without CUDA, a variable that hides the GPUs). Rows of a device that cannot be had would
all say the same, and would stay; so that is one message, and nothing is recorded.
"""

import os
import re
from collections.abc import Callable, Collection
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.launchers._aside import Aside, Unanswered
from bench.plan import cards
from bench.plan.machine import Smi, ask_smi

if TYPE_CHECKING:
    from bench.model.seen import Torch

PATIENCE_S = 120.0
"""After which torch is no longer waited for."""


def answer(visible: str) -> Any:
    """In a process of its own: how torch sees the machine, with these cards visible; "": as it is."""
    if visible:
        os.environ[cards.VISIBLE] = visible  # before CUDA looks at it
    from bench.model.seen import devices  # noqa: PLC0415 - in that process alone

    return devices()


def require(
    asked: Collection[str],
    box: cards.Box,
    *,
    respond: Callable[[str], "Torch"] = answer,
    patience_s: float = PATIENCE_S,
) -> None:
    """Go on only if torch computes on these devices.

    Args:
        asked: devices as cells name them; "auto" is a GPU where nvidia-smi lists one, though it may be hidden.
        box: this machine's cards.
        respond: see `answer`.
        patience_s: see `PATIENCE_S`.

    Raises:
        UserError: it does not; says why in torch's words, and what to do.
    """
    wanted = sorted({"cuda" if device == "auto" and box.there else device for device in asked} - {"auto", "cpu"})
    if not wanted:
        return
    with closing(Aside(respond, patience_s)) as side:
        try:
            seen: Torch = side.ask(",".join(card.uuid for card in box.used))
        except Unanswered as error:
            raise UserError(f"{_of(wanted[0])} is asked for, and torch does not say what it sees: {error}") from error
    for device in wanted:
        kind, _, index = device.partition(":")
        count = sum(one.name.partition(":")[0] == kind for one in seen.devices)
        if kind == "cuda":  # of several slices CUDA shows a process one alone
            count = max(count, len(box.used)) if count else 0
        if not count:
            raise UserError(_missing(device, seen, box))
        if index and int(index) >= count:
            raise UserError(
                f"{_of(device)} is asked for, and there {'is' if count == 1 else 'are'} {count} of its kind"
            )


def _missing(device: str, seen: "Torch", box: cards.Box) -> str:
    """Why there is no such device, and what to do."""
    start = f"{_of(device)} is asked for, and torch sees none"
    if device.startswith("cuda") and box.there:
        smi = ask_smi([card.model for card in box.there])
        why, what = hidden(smi, seen, os.environ.get(cards.VISIBLE))
        return f"{start}, while nvidia-smi sees {gpus(len(box.there))}: {why}; {what}, or run with --device cpu"
    here = ", ".join(one.name for one in seen.devices) or "the CPU alone"
    said = f" ({seen.said})" if seen.said else ""
    return f"{start}: torch {seen.version} sees {here}{said}; run with --device {'auto' if box.there else 'cpu'}"


def _of(device: str) -> str:
    return f"device {device}"


def hidden(smi: Smi, seen: "Torch", visible: str | None) -> tuple[str, str]:
    """Why torch sees none of the GPUs that nvidia-smi lists, and what to do."""
    if seen.cuda is None:
        return f"torch {seen.version} is built without CUDA", "install a torch that is built with it"
    if visible is not None and not re.match(r"\s*(\d|GPU-|MIG-)", visible):
        shown = f"is '{visible}'" if visible.strip() else "is empty"
        return f"CUDA_VISIBLE_DEVICES {shown}, which hides them all", "unset CUDA_VISIBLE_DEVICES"
    newest, wanted = smi.cuda.partition(".")[0], seen.cuda.partition(".")[0]
    if newest and int(newest) < int(wanted):
        return (
            f"driver {smi.driver} is too old, it runs CUDA up to {smi.cuda} and this torch is built for {seen.cuda}",
            f"update the driver, or install a torch that is built for CUDA {newest}",
        )
    named = "" if visible is None else f", and CUDA_VISIBLE_DEVICES is '{visible}'"
    return f"{seen.said or 'it does not say why'}{named}", "mend what torch complains about"


def gpus(count: int) -> str:
    """How many, in words."""
    return "1 GPU" if count == 1 else f"{count} GPUs"
