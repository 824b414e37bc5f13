"""The sweep of exports goes on where it was cut off, and its table is that of its lines."""

from tests.benchmarks import exports


def test_committed_table_is_that_of_the_committed_lines():
    lines = exports.read()
    assert exports.TABLE.read_text(encoding="utf-8") == exports.table(lines)
    assert all(one["status"] != "fails" for one in lines if one["runtime"] == "torch.export"), "all of it is our code"


def test_sweep_goes_on_where_it_was_cut_off(tmp_path):
    path, asked = tmp_path / "exports.jsonl", []

    def ask(backbone, head, runtimes):
        asked.append((backbone, head))
        return [exports.line(one, backbone, head, "works", far=0.0, unlike=0.0, via="ONNX") for one in runtimes]

    exports.complete([("swin_pico", "linear")], path, ask)
    lines = exports.complete([("vit_pico", "linear"), ("swin_pico", "linear")], path, ask)
    assert asked == [("swin_pico", "linear"), ("vit_pico", "linear")]
    assert [one["backbone"] for one in lines] == ["vit_pico"] * 3 + ["swin_pico"] * 3
    assert exports.read(path) == lines
    asked.clear()
    lines = exports.complete([("swin_pico", "linear")], path, ask, ["torch.export", "aoti"])
    assert asked == [("swin_pico", "linear")]
    assert [one["runtime"] for one in lines[3:]] == list(exports.RUNTIMES), "of which it had all but the last"


def test_table_says_what_works_and_why_the_rest_does_not():
    lines = [
        exports.line("openvino", "vit_pico", "fcos_pico", "works", far=2e-6, unlike=0.25, via="ONNX"),
        exports.line("openvino", "swin_pico", "eomt_pico", "no such model", reason="no blocks"),
        exports.line("openvino", "swin_pico", "fcos_pico", "fails", reason="RuntimeError: boom"),
    ]
    text = exports.table(lines)
    assert "## openvino: 1 of 2" in text
    assert "| fcos_pico | 2e-06 (25.00%) via ONNX | fails |" in text
    assert "| eomt_pico |  | - |" in text
    assert text.endswith("- openvino, `swin_pico` under `fcos_pico`: RuntimeError: boom\n")


def test_the_reason_is_the_first_fault():
    later = RuntimeError("the exporter failed")
    later.__cause__ = ValueError("\x1b[96mno\x1b[0m way\nmore")
    assert exports._reason(later) == "ValueError: no way"
    assert exports._reason(OSError("a\n-- No conversion rule found for operations: x.y\n")) == (
        "OSError: No conversion rule found for operations: x.y"
    )
