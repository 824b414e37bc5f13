"""One cell timed as a script by hand would: a process, the library's initialisation, 10 + 40 iterations.

``python -m tests.benchmarks.plain '{"backbone": ...}'`` prints a JSON object with its samples and where its time went.
"""

import json
import sys
import time

START = time.perf_counter()


def main(cell: dict[str, object]) -> dict[str, object]:
    """Import, build, iterate; seconds of each, and milliseconds of the 40 iterations."""
    import timm  # noqa: F401
    import torch

    from bench import build

    imported = time.perf_counter()
    torch.set_num_threads(int(str(cell["threads"])))
    net = build(
        str(cell["backbone"]),
        str(cell["head"]),
        patch=int(str(cell["patch"])),
        size=(int(str(cell["height"])), int(str(cell["width"]))),
        classes=int(str(cell["classes"])),
    ).eval()
    image = torch.rand(int(str(cell["batch"])), 3, *net.size)
    built = time.perf_counter()
    samples = []
    with torch.inference_mode():
        for _ in range(10):
            net(image)
        for _ in range(40):
            begin = time.perf_counter()
            net(image)
            samples.append((time.perf_counter() - begin) * 1e3)
    return {
        "import_s": imported - START,
        "build_s": built - imported,
        "iterate_s": time.perf_counter() - built,
        "samples_ms": samples,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
