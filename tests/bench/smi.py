"""A made-up nvidia-smi on the PATH, with any cards."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3, 580.1, 81559, 700.00, Default, Disabled"
"""What follows the UUID in an answer."""
SCRIPT = """#!/bin/sh
case "$*" in
  *mig.mode.current*) test -n "{new}" && cat {folder}/cards || exit 2 ;;
  *compute_mode*) sed 's/, [^,]*$//' {folder}/cards ;;
  --id=*memory.free*) id="${{1#--id=}}"; cat "{folder}/free $id" ;;
  -L) cat {folder}/list ;;
  *) echo "NVIDIA-SMI 580.1    Driver Version: 580.1    CUDA Version: {cuda}" ;;
esac
"""


def put(
    folder: Path,
    cards: Mapping[str, str],
    *,
    listed: Iterable[str] = (),
    free: Mapping[str, str] | None = None,
    cuda: str = "13.9",
    new: bool = True,
) -> str:
    """Write one; gives the PATH that has it.

    Args:
        folder: for its files.
        cards: UUID -> name, driver, memory in MiB, power limit in W, compute mode and MIG mode, by ", ".
        listed: lines of ``nvidia-smi -L``.
        free: UUID -> free and total memory in MiB, by ", ".
        cuda: the highest version that its driver can run.
        new: whether it knows of slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cards").write_text("".join(f"{uuid}, {facts}\n" for uuid, facts in cards.items()))
    (folder / "list").write_text("".join(f"{line}\n" for line in listed))
    for uuid, sizes in (free or {}).items():
        (folder / f"free {uuid}").write_text(f"{sizes}\n")
    tool = folder / "nvidia-smi"
    text = SCRIPT.format(folder=shlex.quote(str(folder)), cuda=cuda, new="yes" if new else "")
    tool.write_text(text)
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
