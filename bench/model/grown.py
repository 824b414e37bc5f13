"""Memory of a model in a runtime whose tensors nobody sees: by how much a process grows that loads and runs its files.

A process of its own, for in the one that exported, what the export left behind would be used again.
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench import catalogue
from bench.model.deploy import Deployed
from bench.model.storage import resident_peak
from bench.plan.cell import Cell
from bench.runtimes.contract import Options


def grown(made: Deployed, cell: Cell, shape: tuple[int, ...], passes: int) -> int | None:
    """Bytes that a fresh process takes beyond what it had with the runtime's library in it, at its peak.

    On a CPU by the high-water mark of its physical memory, on a GPU by what the device has less afterwards. Weights,
    input and outputs are in it.

    Args:
        made: the files.
        cell: names runtime, device, dtype and threads.
        shape: (B, 3, H, W) of the batch.
        passes: forward passes after loading.

    Returns:
        None where the system keeps no high-water mark.

    Raises:
        RuntimeError: the process died; says how.
    """
    asked = {
        "runtime": cell.runtime,
        "folder": str(made.folder.absolute()),
        "options": [cell.device, cell.dtype, cell.threads, cell.quantise],
        "shape": list(shape),
        "passes": passes,
    }
    words = [sys.executable, "-m", "bench.model.grown", json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=catalogue.ROOT, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise RuntimeError(f"the process whose memory was looked at ended with exit code {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _here(asked: dict[str, Any]) -> int | None:
    """What `grown` asks, of this process."""
    entry = catalogue.get("runtimes", asked["runtime"])
    for name in entry.facts["needs"]:
        with suppress(ImportError):  # a distribution need not be called like its module
            import_module(name.replace("-", "_"))
    options = Options(*asked["options"])
    torch.set_num_threads(options.threads)
    image = torch.rand(asked["shape"], device=options.device)

    def use() -> None:
        run = entry.load().load(Path(asked["folder"]), options)
        with torch.inference_mode():
            for _ in range(asked["passes"]):
                kept.append(run(image))
                del kept[:-1]

    kept: list[Any] = []
    if image.device.type == "cpu":
        return resident_peak(use)
    free = torch.cuda.mem_get_info(image.device)[0]
    use()
    torch.cuda.synchronize(image.device)
    return max(0, free - torch.cuda.mem_get_info(image.device)[0])


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(_here(json.loads(sys.argv[1])))}\n")
