"""What tells rows apart: words for what is unusual, and never the same words for two rows."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.cell import DEFAULTS
from bench.report.naming import naming
from bench.report.terminal import NO_BREAK

USUAL: dict[str, Any] = {
    **{
        name: DEFAULTS[name]
        for name in ("weights", "batch", "dtype", "compile", "attention", "recipe", "memory_format")
    },
    "backbone": "vit_pico",
    "patch": 16,
    "head": "linear",
    "height": 128,
    "width": 128,
    "device": "cpu",
    "threads": 2,
}
VALUES: dict[str, list[Any]] = {
    "backbone": ["vit_pico", "swin_pico"],
    "patch": [8, 16],
    "weights": ["random", "pretrained", "pretrained:in1k", "/one/net.pth", "/two/net.pth"],
    "head": ["linear", "fcos"],
    "height": [64, 128],
    "width": [128],
    "batch": [1, 8],
    "dtype": ["fp32", "bf16"],
    "compile": ["none", "default", "max-autotune"],
    "attention": ["auto", "fused", "unfused"],
    "device": ["cpu", "cuda"],
    "threads": [1, 2],
    "recipe": ["short", "real", "fused"],
    "window": ["keep", "scale"],
    "padding": ["refuse", "pad"],
    "memory_format": ["contiguous", "channels_last"],
    "limit_mib": [0, 512],
}
_KNOWN = {"backbone", "patch", "head"}
_ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.sampled_from(values) for name, values in VALUES.items() if name in _KNOWN},
        optional={name: st.sampled_from(values) for name, values in VALUES.items() if name not in _KNOWN},
    ).map(lambda row: {**row, **({"width": 128, "height": 64} if {"width", "height"} & row.keys() else {})}),
    min_size=1,
    max_size=8,
    unique_by=lambda row: frozenset(row.items()),
)


def _modes(*changed: dict[str, Any]) -> list[str]:
    found = naming([USUAL | change for change in changed])
    cells = {column.title: column.cells for column in found.columns}
    return [cell.replace(NO_BREAK, " ") for cell in cells["mode"]]


def test_modes_are_what_is_unusual() -> None:
    changed = [
        {},
        {"dtype": "bf16", "compile": "default", "memory_format": "channels_last"},
        {"compile": "cudagraph"},
        {"attention": "unfused"},
        {"batch": 8},
        {"recipe": "untrained", "weights": "pretrained:augreg"},
        {"weights": "/some/where/net.safetensors"},
    ]
    assert _modes(*changed) == [
        "",
        "bf16 compiled channels_last",
        "cudagraph",
        "unfused",
        "batch 8",
        "pretrained:augreg recipe untrained",
        "net.safetensors",
    ]
    # Only what the machine has for all of them is said of all: neither number of threads is the usual one.
    assert _modes({}, {"threads": 1}) == ["threads 2", "threads 1"]


def test_what_would_look_the_same_is_spelled_out() -> None:
    assert _modes({"weights": "/one/net.pth"}, {"weights": "/two/net.pth"}) == [
        "net.pth weights /one/net.pth",
        "net.pth weights /two/net.pth",
    ]
    unknown = {name: value for name, value in USUAL.items() if name != "batch"}
    found = naming([USUAL, unknown, USUAL | {"batch": 8}])
    assert [cell.replace(NO_BREAK, " ") for cell in found.columns[-1].cells] == [
        "batch 1",
        "batch ?",
        "batch 8",
    ]


def test_what_is_constant_is_said_once() -> None:
    rows = [USUAL | {"batch": 8, "backbone": name} for name in ("vit_pico", "deit_pico")]
    found = naming(rows)
    assert [(column.title, column.cells) for column in found.columns] == [
        ("backbone/patch", ["vit_pico/16", "deit_pico/16"])
    ]
    (caption,) = found.caption()
    assert caption.replace(NO_BREAK, " ") == (
        "Throughout: head linear, input 128x128, weights random, batch 8, dtype fp32, compile none, attention auto, "
        "device cpu, threads 2, recipe short, memory_format contiguous"
    )
    assert found.caption(found.fixed) == []
    assert found.caption({**found.fixed, "batch": 1}) == [f"Throughout: batch{NO_BREAK}8"]


@pytest.mark.parametrize(
    ("by", "titles"),
    [
        (["patch", "backbone"], ["backbone/patch", "mode"]),
        (["threads"], ["threads", "backbone", "mode"]),
        (["dtype", "resolution"], ["dtype", "input", "backbone"]),
    ],
)
def test_axes_that_were_asked_for_have_columns(by: list[str], titles: list[str]) -> None:
    found = naming([USUAL, USUAL | {"backbone": "deit_pico", "dtype": "bf16"}], by=by)
    assert [column.title for column in found.columns] == titles
    assert [column.right for column in found.columns] == [title in {"threads", "input"} for title in titles]


@given(_ROWS, st.sets(st.sampled_from(["recipe", "batch"])), st.sampled_from([[], ["head"], ["backbone", "threads"]]))
@settings(max_examples=300, deadline=None)
def test_no_two_rows_look_the_same(rows: list[dict[str, Any]], headed: set[str], by: list[str]) -> None:
    found = naming(rows, by=by, headed=sorted(headed))
    heading, seen = "", set()
    for index in range(len(rows)):
        heading = found.headings.get(index, heading)
        seen.add((heading, *(column.cells[index] for column in found.columns)))
    assert len(seen) == len(rows)
    assert set(found.fixed) & {name for column in found.columns for name in column.title.split("/")} == set()
