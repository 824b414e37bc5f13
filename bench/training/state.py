"""The state of a training on the disk, from which a training that was cut off goes on as if nothing had happened.

A file is written every few minutes, whole or not at all. It begins with a digest of the rest, so a damaged one is
noticed; and it says which training it is of, so a foreign one is not taken. Losing it costs time and no training.
"""

import copy
import hashlib
import io
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

VERSION = 1
"""Of the content of a file; another one is foreign."""
DIGEST = hashlib.sha256().digest_size
_PATIENCE = 20
"""Writing takes no more than one part in so many of the time, however slow the disk is."""


@runtime_checkable
class Stateful(Protocol):
    """What has a state that the next step depends on: a module, an optimiser, a schedule, ..."""

    def state_dict(self) -> Any:
        """The state, as tensors, numbers and texts in dicts and lists."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Go on from where `state_dict` was taken."""
        ...


@dataclass(frozen=True)
class Position:
    """How far a training is, between two steps.

    losses: of every step so far. seconds: that it has taken. waited, counted: seconds that it has waited for batches,
    and of how many.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    counted: float = 0.0


class Checkpoint:
    """The file of one training.

    Args:
        path: of the file; its folder is made when something is written.
        question: a text of everything that decides the training.
        every_s: seconds between two states.
        every_steps: steps between two states, instead.
        say: told, in a sentence, what the user should know of.
    """

    def __init__(
        self,
        path: Path,
        question: str,
        *,
        every_s: float = 120.0,
        every_steps: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path, self.question, self.say = path, question, say
        self.every_s, self.every_steps = every_s, every_steps
        self._due = time.monotonic() + every_s
        self._lost = False

    def restore(self, parts: Mapping[str, Stateful], device: torch.device) -> Position | None:
        """Put ``parts`` and torch's generators where the last state left them; where that fails, they stay as they are.

        Returns:
            How far the training is; None: there is no state of it, or none that can be used, which is said.
        """
        try:
            content = self._read(parts)
        # What a file of another version of a library may raise when it is read is not known beforehand.
        except (_Unusable, OSError, LookupError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            self._unusable(error)
            return None
        if content is None:
            return None
        before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        generators = _generators(device)
        try:
            for name, part in parts.items():
                part.load_state_dict(content["parts"][name])
            _set_generators(content["generators"], device)
            return Position(**content["position"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            for name, part in parts.items():
                part.load_state_dict(before[name])
            _set_generators(generators, device)
            self._unusable(error)
            return None

    def _unusable(self, error: Exception) -> None:
        reason = str(error).partition("\n")[0]
        self.say(f"the state of a training in {self.path} cannot be used ({reason}); it begins from the start")

    def due(self, step: int) -> bool:
        """Whether a state is to be written now that so many steps are done."""
        if self._lost:
            return False
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return time.monotonic() >= self._due

    def save(self, parts: Mapping[str, Stateful], position: Position, device: torch.device) -> None:
        """Write the state; where the disk does not take it, the training goes on without, which is said once."""
        content = {
            "version": VERSION,
            "question": self.question,
            "position": dict(vars(position)),
            "generators": _generators(device),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        began = time.monotonic()
        try:
            _write(content, self.path)
        except (OSError, RuntimeError) as error:  # torch turns the former into the latter
            self._lost = True
            self.say(f"the state of a training cannot be kept in {self.path.parent} ({error}); it goes on without")
        now = time.monotonic()
        self._due = now + max(self.every_s, _PATIENCE * (now - began))

    def _read(self, parts: Mapping[str, Stateful]) -> dict[str, Any] | None:
        try:
            file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return None
        with file:
            digest = file.read(DIGEST)
            if hashlib.file_digest(file, "sha256").digest() != digest:
                raise _Unusable("it is damaged")
            file.seek(DIGEST)
            content = torch.load(file, map_location="cpu", weights_only=True)
        mine = content.get("version") == VERSION and content.get("question") == self.question
        if not mine or content["parts"].keys() != parts.keys():
            raise _Unusable("it is of another training")
        return content


class _Unusable(Exception):
    """Why a state cannot be used."""


class _Hashing(io.RawIOBase):
    """Passes on what is written and digests it."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _write(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(bytes(DIGEST))  # in whose place the digest comes
            hashing = _Hashing(file)
            torch.save(content, hashing)  # pyright: ignore[reportArgumentType] - it only writes
            file.seek(0)
            file.write(hashing.digest.digest())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """States of torch's global generators: of the CPU, and of the device where that is another."""
    found = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[device.type] = torch.get_device_module(device).get_rng_state()
    return found


def _set_generators(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
