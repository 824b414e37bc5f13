"""The NVIDIA GPUs of this machine as nvidia-smi lists them, and which of them cells run on; asked without torch.

A card is what a process computes on: a whole GPU, or a slice of one (MIG). Workers are given theirs by its UUID, so
that it does not matter in which order CUDA counts. All cards that a run uses are of one kind, since records of two
kinds must never stand in one table.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
_FACTS: tuple[str, ...] = (
    "uuid",
    "name",
    "driver_version",
    "memory.total",
    "power.limit",
    "compute_mode",
    "mig.mode.current",
)
_OLD = _FACTS[:-1]
"""Drivers before 450 know no slices, and refuse the question as a whole."""
_SHORT = 12


@dataclass(frozen=True)
class Card:
    """One GPU, or one slice of it.

    Attributes:
        uuid: "GPU-..." or "MIG-...".
        model: as nvidia-smi names it; of a slice with its profile, as torch does: "NVIDIA A100 MIG 3g.20gb".
        memory_gib: of a slice what its profile says; None where it is not told.
        power_limit_w: in force, of the whole board; None where it is not told.
        driver: version.
        board: UUID of the whole GPU.
        lone: whether one process at a time may compute on it (compute mode "Exclusive_Process").
    """

    uuid: str
    model: str
    memory_gib: float | None = None
    power_limit_w: float | None = None
    driver: str = ""
    board: str = ""
    lone: bool = False

    @property
    def kind(self) -> tuple[str, float | None, float | None]:
        """What numbers depend on."""
        return self.model, self.memory_gib, self.power_limit_w

    @property
    def sliced(self) -> bool:
        """Whether it is a slice."""
        return self.uuid.startswith("MIG-")

    def short(self) -> str:
        """The beginning of its UUID, by which it can be named in CUDA_VISIBLE_DEVICES."""
        return self.uuid[:_SHORT]


@dataclass(frozen=True)
class Box:
    """What there is, and what is used.

    Attributes:
        there: all cards that can compute, in nvidia-smi's order.
        used: those that cells run on: visible ones, all of one kind.
        others: visible ones of other kinds.
    """

    there: tuple[Card, ...] = ()
    used: tuple[Card, ...] = ()
    others: tuple[Card, ...] = ()

    def says(self) -> str:
        """What a user should know where there are several kinds; else ""."""
        if not self.others:
            return ""
        rest: dict[str, list[str]] = {}
        for card in self.others:
            rest.setdefault(_named(card), []).append(card.short())
        ways = "; ".join(f"{VISIBLE}={','.join(ids)} takes {len(ids)} x {name}" for name, ids in rest.items())
        return f"cells run on {len(self.used)} x {_named(self.used[0])}, for one run has one kind of GPU: {ways}"


def look(variables: Mapping[str, str] = os.environ) -> Box:
    """The cards of this machine; none without nvidia-smi.

    Of those that ``CUDA_VISIBLE_DEVICES`` shows, the kind of the first is used, and where it is not set, the kind with
    the most memory. Its numbers are nvidia-smi's, which count places on the bus, whatever ``CUDA_DEVICE_ORDER`` says.
    """
    there = _cards()
    seen = _visible(there, variables.get(VISIBLE))
    if not seen:
        return Box(there)
    named = VISIBLE in variables
    kind = (seen[0] if named else max(seen, key=lambda card: card.memory_gib or 0.0)).kind
    used = tuple(card for card in seen if card.kind == kind)
    return Box(there, used, tuple(card for card in seen if card.kind != kind))


def free(card: Card) -> float | None:
    """Share of a card's memory that is free now; None where it is not told, as of a slice."""
    if card.sliced or not card.uuid:
        return None
    rows = _ask(f"--id={card.uuid}", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")
    sizes = [_number(word) for word in rows[0].split(",")] if len(rows) == 1 else []
    return None if len(sizes) != 2 or sizes[0] is None or not sizes[1] else sizes[0] / sizes[1]


def _named(card: Card) -> str:
    limits = [
        f"{value:g} {unit}"
        for value, unit in ((card.memory_gib, "GiB"), (card.power_limit_w, "W"))
        if value is not None
    ]
    return f"{card.model} ({', '.join(limits)})" if limits else card.model


def _cards() -> tuple[Card, ...]:
    names, rows = _FACTS, _query(_FACTS)
    if not rows:
        names, rows = _OLD, _query(_OLD)
    found: list[Card] = []
    slices: dict[str, list[tuple[str, str]]] | None = None
    for row in rows:
        words = [word.strip() for word in row.split(",")]
        if len(words) != len(names):
            continue
        facts = dict(zip(names, words, strict=True))
        if facts["compute_mode"] == "Prohibited":  # CUDA leaves it out, too
            continue
        card = _card(facts)
        if facts.get("mig.mode.current") == "Enabled":
            slices = _slices() if slices is None else slices
            found += [_slice(card, profile, uuid) for profile, uuid in slices.get(card.uuid, ())]
        else:
            found.append(card)
    return tuple(found)


def _card(facts: Mapping[str, str]) -> Card:
    memory, power = _number(facts["memory.total"]), _number(facts["power.limit"])
    return Card(
        uuid=facts["uuid"],
        model=facts["name"],
        memory_gib=None if memory is None else round(memory / 1024, 1),
        power_limit_w=None if power is None else round(power, 1),
        driver=facts["driver_version"],
        board=facts["uuid"],
        lone=facts["compute_mode"] == "Exclusive_Process",
    )


def _slice(board: Card, profile: str, uuid: str) -> Card:
    size = re.search(r"(\d+)gb", profile)
    memory = None if size is None else float(size[1])
    model = f"{board.model} MIG {profile}"
    return Card(uuid, model, memory, board.power_limit_w, board.driver, board.uuid, board.lone)


def _slices() -> dict[str, list[tuple[str, str]]]:
    """UUID of a GPU -> profile and UUID of each of its slices."""
    found: dict[str, list[tuple[str, str]]] = {}
    board = ""
    for line in _ask("-L"):
        if whole := re.match(r"GPU \d+: .*\(UUID: ([^)]+)\)", line):
            board = whole[1]
        elif part := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: ([^)]+)\)", line):
            found.setdefault(board, []).append((part[1], part[2]))
    return found


def _visible(cards: Sequence[Card], named: str | None) -> list[Card]:
    """Those that a value of ``CUDA_VISIBLE_DEVICES`` shows, in its order; behind one that does not exist, none."""
    if named is None:
        return list(cards)
    boards = list(dict.fromkeys(card.board for card in cards))
    seen: list[Card] = []
    for word in (part.strip() for part in named.split(",")):
        if word.isdecimal():
            found = [card for card in cards if int(word) < len(boards) and card.board == boards[int(word)]]
        else:
            found = [card for card in cards if word and card.uuid.startswith(word)]
            found = found if len(found) == 1 else []
        if not found:
            break
        seen.append(found[0])  # of a sliced GPU CUDA takes the first slice
    return seen if len(set(seen)) == len(seen) else []  # one that is named twice makes CUDA see none at all


def _query(names: Sequence[str]) -> list[str]:
    return _ask(f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")


def _ask(*words: str) -> list[str]:
    """Lines of nvidia-smi's answer; none without one."""
    if not (tool := shutil.which("nvidia-smi")):
        return []
    try:
        answer = subprocess.run([tool, *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in answer.stdout.splitlines() if line.strip()]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # "[N/A]", "[Not Supported]"
        return None
