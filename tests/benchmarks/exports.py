"""Every head over every family of backbones, exported: which runtimes take it, and how far they are from eager float32.

``python -m tests.benchmarks.exports`` goes on where it was cut off, a line of ``results/sweep/exports.jsonl`` a runtime,
backbone and head, and ends with the table ``exports.md``. ``--table`` writes the table alone; ``--again`` tries once more
what did not work. Each pair has a process of its own, which is given up after `TIMEOUT`.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = ROOT / "results" / "sweep" / "exports.jsonl"
TABLE = LINES.with_suffix(".md")
BACKBONES = ("vit_pico", "swin_pico", "hybrid_pico", "deit_pico", "cnn_pico")
RUNTIMES = ("torch.export", "onnxruntime", "openvino", "aoti")
QUICK = RUNTIMES[:3]
"""Those that are tried unless others are asked for: AOTInductor compiles for half a minute and more each time."""
NEEDS = {
    "torch.export": ("torch",),
    "onnxruntime": ("onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "aoti": (),
}
SIZE = (64, 64)
CLASSES = 5
CANDIDATES = 100
"""Boxes that go into NMS: random weights find nothing or everything."""
TIMEOUT = 300
"""Seconds for one pair of backbone and head, all runtimes together."""
Line = dict[str, Any]


def heads() -> list[str]:
    """Every head of the catalogue, in its smallest size."""
    from bench import catalogue

    names = list(catalogue.entries("heads"))
    return [name for name in names if name.endswith("_pico") or f"{name}_pico" not in names]


def attempt(backbone: str, head: str, runtimes: Sequence[str]) -> Iterable[Line]:
    """Lines of one pair as they come, one a runtime."""
    import torch

    import bench
    from backbones.contract import Unsupported

    warnings.simplefilter("ignore")  # of the exporters' own parts
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        model = bench.build(backbone, head, size=SIZE, classes=CLASSES).eval()
    except Unsupported as error:
        for runtime in runtimes:
            yield line(runtime, backbone, head, "no such model", reason=str(error))
        return
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        if head in detectors():
            model.head.full_load(model.features(image), SIZE, CANDIDATES)
        ways = _ways(model, image, Path(folder))
        for runtime in runtimes:
            try:
                numbers = ways[runtime]()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is a line of the table
                yield line(runtime, backbone, head, "fails", reason=_reason(error))
            else:
                yield line(runtime, backbone, head, "works", **numbers)


def _ways(model: Any, image: Any, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """What each runtime is asked, and how far its answer is from eager torch; two of them read the file of another."""
    import torch

    from bench.model.artifact import agreement
    from bench.model.deploy import Flat
    from heads.deployed import deploy, prediction

    flat = Flat(model, image)
    raw = model(image)
    smooth, wanted = model.head.smooth(raw), model.decode(raw, SIZE)
    count = len(flat(image))

    class Both(torch.nn.Module):
        """Raw output and prediction of one pass."""

        def __init__(self) -> None:
            super().__init__()
            self.flat = flat

        def forward(self, image):
            tensors = self.flat(image)
            return *tensors, *deploy(model, self.flat.whole(tensors), SIZE)

    both, file = Both().eval(), folder / "model.onnx"

    @functools.cache
    def program() -> Any:
        return torch.export.export(both, (image,), strict=False)

    def compared(run: Callable[[], tuple[Sequence[Any], str]]) -> dict[str, Any]:
        found, via = run()
        tensors = [torch.as_tensor(one) for one in found]
        far = _far(smooth, model.head.smooth(flat.whole(tensors[:count])))
        return {"far": far, "unlike": 1 - agreement(wanted, prediction(tuple(tensors[count:]))), "via": via}

    return {
        "torch.export": lambda: compared(lambda: (program().module()(image), "")),
        "onnxruntime": lambda: compared(lambda: _onnxruntime(both, image, file)),
        "openvino": lambda: compared(lambda: _openvino(program(), image, file)),
        "aoti": lambda: compared(lambda: _aoti(program(), image, folder / "model.pt2")),
    }


def detectors() -> set[str]:
    """Heads with an NMS."""
    return {name for name in heads() if name.startswith(("fcos", "retinanet", "faster_rcnn", "mask_rcnn"))}


def _onnxruntime(net: Any, image: Any, file: Path) -> tuple[Sequence[Any], str]:
    import onnxruntime

    from bench.runtimes._onnx import to_onnx

    to_onnx(net, [image], file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image.numpy()}), "ONNX"


def _openvino(program: Any, image: Any, file: Path) -> tuple[Sequence[Any], str]:
    """From torch.export's program; what that way has no rule for, from ONNX."""
    import openvino

    try:
        model, via = openvino.convert_model(program), "torch.export"
    except Exception:
        if not file.exists():  # written for ONNX Runtime, where that was asked for and possible
            raise
        model, via = openvino.convert_model(str(file)), "ONNX"
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [one.copy() for one in compiled([image.numpy()]).values()], via


def _aoti(program: Any, image: Any, file: Path) -> tuple[Sequence[Any], str]:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    run = aoti_load_package(aoti_compile_and_package(program, package_path=str(file)))
    return run(image), "torch.export"


def _far(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Largest difference of raw outputs, relative to the largest value of its tensor."""
    return max(
        float((one.float() - other.float()).abs().max() / one.float().abs().max().clamp(min=1e-12))
        for one, other in zip(wanted, found, strict=True)
    )


def _reason(error: BaseException) -> str:
    """The first line of what was wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    missing = re.search(r"No conversion rule found for operations: [^\n]+", text)
    first = missing.group() if missing else text.split("\n", 1)[0]
    return f"{type(error).__name__}: {first[:300]}"


def line(runtime: str, backbone: str, head: str, status: str, **numbers: Any) -> Line:
    """One line of the file."""
    versions = " ".join(f"{name} {version(name)}" for name in dict.fromkeys(("torch", *NEEDS[runtime])))
    return {"runtime": runtime, "backbone": backbone, "head": head, "status": status, **numbers, "versions": versions}


def examine(backbone: str, head: str, runtimes: Sequence[str]) -> list[Line]:
    """Lines of one pair, made in a process of its own; what is missing when it ends says how it ended."""
    command = [sys.executable, "-m", "tests.benchmarks.exports", "--pair", backbone, head, "--runtimes", *runtimes]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=TIMEOUT, check=False, text=True)
        text, end = done.stdout, f"process ended, {done.returncode}"
    except subprocess.TimeoutExpired as error:
        text, end = (error.stdout or b"").decode(), f"longer than {TIMEOUT} s"
    lines = [json.loads(one) for one in text.splitlines() if one.startswith("{")]
    missing = runtimes[len(lines) :]
    return lines + [line(runtime, backbone, head, "fails", reason=end) for runtime in missing]


def read(path: Path = LINES) -> list[Line]:
    """The lines there are, the last one of each runtime, backbone and head, in that order."""
    if not path.exists():
        return []
    found = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    lines = {(one["backbone"], one["head"], one["runtime"]): one for one in found}
    place = {name: index for index, name in enumerate((*BACKBONES, *RUNTIMES))}
    return [lines[key] for key in sorted(lines, key=lambda key: (place[key[0]], key[1], place[key[2]]))]


def write(lines: Iterable[Line], path: Path = LINES) -> None:
    """All lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


def complete(
    pairs: Iterable[tuple[str, str]],
    path: Path = LINES,
    ask: Callable[[str, str, Sequence[str]], list[Line]] = examine,
    runtimes: Sequence[str] = QUICK,
) -> list[Line]:
    """Examine what has no line yet, flushed pair by pair; then sort the file."""
    done = {(one["backbone"], one["head"], one["runtime"]) for one in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for backbone, head in pairs:
            left = [runtime for runtime in runtimes if (backbone, head, runtime) not in done]
            if not left:
                continue
            file.write("".join(json.dumps(one) + "\n" for one in ask(backbone, head, left)))
            file.flush()
            os.fsync(file.fileno())
    lines = read(path)
    write(lines, path)
    return lines


def table(lines: Sequence[Line]) -> str:
    """The table in Markdown, a function of the lines alone."""
    versions = sorted({text for one in lines for text in re.findall(r"\S+ \S+", one["versions"])})
    by_key = {(one["head"], one["backbone"], one["runtime"]): one for one in lines}
    backbones = [name for name in BACKBONES if any(one["backbone"] == name for one in lines)]
    names = sorted({one["head"] for one in lines})
    text = [
        "# Every head over every family, exported",
        "",
        f"{', '.join(versions)}; float32 on a CPU, one image of {SIZE[0]}x{SIZE[1]} px, random weights; `python -m tests.benchmarks.exports`.",
        "",
        "A cell is the largest difference of the head's raw outputs from eager torch, relative to the largest value (of",
        "what `Head.smooth` names); in brackets, where there are any, the share of pixels or boxes of the prediction that",
        "are not the same (a box: within 0.1 px, its score within 0.001). Backbone, head and decoding are one graph.",
        "`via ONNX`: OpenVINO has no rule for an operation of torch.export's program and took the ONNX file. `-`: there",
        "is no such model, since the head works inside the blocks of a plain transformer.",
    ]
    for runtime in [name for name in RUNTIMES if any(one["runtime"] == name for one in lines)]:
        mine = [one for one in lines if one["runtime"] == runtime and one["status"] != "no such model"]
        works = sum(one["status"] == "works" for one in mine)
        text += ["", f"## {runtime}: {works} of {len(mine)}", ""]
        text += ["| head | " + " | ".join(backbones) + " |", "|---|" + "---|" * len(backbones)]
        for head in names:
            cells = [_cell(by_key.get((head, backbone, runtime))) for backbone in backbones]
            text.append(f"| {head} | " + " | ".join(cells) + " |")
    bad = [one for one in lines if one["status"] == "fails"]
    text += ["", "## What does not work", ""]
    text += [f"- {one['runtime']}, `{one['backbone']}` under `{one['head']}`: {one['reason']}" for one in bad]
    return "\n".join([*text, *([] if bad else ["Everything works."])]) + "\n"


def _cell(one: Line | None) -> str:
    if one is None:
        return ""
    if one["status"] != "works":
        return "fails" if one["status"] == "fails" else "-"
    unlike = f" ({one['unlike']:.2%})" if one["unlike"] else ""
    via = " via ONNX" if one["runtime"] == "openvino" and one["via"] == "ONNX" else ""
    far = f"{one['far']:.0e}" if one["far"] else "0"
    return f"{far}{unlike}{via}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="write the table alone")
    parser.add_argument("--again", action="store_true", help="try once more what did not work")
    parser.add_argument("--only", nargs="*", help="of these backbones alone")
    parser.add_argument("--pair", nargs=2, help="print the lines of one backbone and head")
    parser.add_argument("--runtimes", nargs="*", default=QUICK, choices=RUNTIMES)
    chosen = parser.parse_args()
    if chosen.pair:
        for one in attempt(*chosen.pair, chosen.runtimes):
            print(json.dumps(one), flush=True)  # noqa: T201 - that is what is asked for
        return
    if not chosen.table:
        if chosen.again:
            bad = {(one["backbone"], one["head"]) for one in read() if one["status"] == "fails"}
            write(one for one in read() if (one["backbone"], one["head"]) not in bad)
        pairs = ((backbone, head) for backbone in chosen.only or BACKBONES for head in heads())
        complete(pairs, runtimes=chosen.runtimes)
    TABLE.write_text(table(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
