"""The latency cells of a matrix under pytest-benchmark; see ``conftest.py``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from bench.plan.cell import Cell


def test_latency(benchmark: Any, cell: Cell, root: Path | None) -> None:
    """Forward pass of backbone and head on a batch that is on the device, the callable of measure ``latency``."""
    import torch  # noqa: PLC0415 - collecting a matrix waits for no torch

    from backbones.contract import Unsupported  # noqa: PLC0415
    from bench.cache import cache_folder  # noqa: PLC0415
    from bench.model import artifact, build  # noqa: PLC0415
    from bench.plan.case import resolve  # noqa: PLC0415
    from bench.plan.measure import Context, Invalid  # noqa: PLC0415
    from bench.timing.clock import clock_of, warm_up  # noqa: PLC0415

    benchmark.group = f"{cell.head} {cell.height}x{cell.width} batch {cell.batch} {cell.dtype} on {cell.device}"
    benchmark.extra_info.update({name: value for name, value in asdict(cell).items() if value is not None})
    threads = torch.get_num_threads()
    torch.set_num_threads(cell.threads)
    # All models enter by one function; what is compiled for the cells before would fill its cache.
    torch.compiler.reset()
    try:
        ready = artifact.prepare(Context(lambda *_: None, cell.threads, resolve(cell, cache=cache_folder(), root=root)))
        benchmark.extra_info["deviation"] = ready.deviation

        def call() -> None:
            ready.forward()
            build.synchronize(ready.device)

        with torch.inference_mode():
            warm_up(clock_of(ready.device), ready.forward)
            benchmark(call)
    except Unsupported as error:
        pytest.skip(str(error))
    except Invalid as error:
        pytest.fail(str(error))
    finally:
        torch.set_num_threads(threads)
