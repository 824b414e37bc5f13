"""The table of side-by-side speeds, from what pytest-benchmark saved.

``pytest tests/benchmarks -k against --benchmark-enable --benchmark-json=FILE -n 0`` and then
``python -m tests.benchmarks.ratios FILE > results/MACHINE/proof/side_by_side.md``.
"""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = "model | input | ours (ms) | theirs (ms) | speed, ours / theirs | quartiles over rounds | parameters (M)"
ABOUT = """# The same models elsewhere

Forward passes of one image, both with the same weights and (tested) equal outputs, timed in turns on one machine; a
speed above 1 means that ours is faster. Written by `python -m tests.benchmarks.ratios`.
"""


def table(saved: dict[str, Any]) -> str:
    """Markdown from the JSON of pytest-benchmark."""
    machine = saved["machine_info"]
    infos = sorted((one["extra_info"] for one in saved["benchmarks"] if "pair" in one["extra_info"]), key=_order)
    threads = " or ".join(str(count) for count in sorted({info["threads"] for info in infos}))
    name = machine["cpu"].get("brand_raw", machine["machine"])
    lines = [ABOUT, f"{name}, {threads} thread(s), Python {machine['python_version']}.", "", f"| {HEADER} |"]
    lines.append("| --- | --- | ---: | ---: | ---: | --- | --- |")
    for info in infos:
        lower, upper = info["speed_quartiles"]
        ours, theirs = info["parameters"]
        cells = (
            info["pair"],
            info["input"],
            f"{info['ours_ms']:.1f}",
            f"{info['theirs_ms']:.1f}",
            f"{info['speed']:.2f}",
            f"{lower:.2f} to {upper:.2f} ({info['rounds']})",
            f"{ours / 1e6:.2f} / {theirs / 1e6:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _order(info: dict[str, Any]) -> str:
    return info["pair"]


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
