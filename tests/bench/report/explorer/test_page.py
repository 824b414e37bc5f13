"""The page of the explorer as a file: whole, alone, and safe whatever records say."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import cli
from bench.errors import UserError, printable
from bench.report import explorer
from bench.report.explorer import SCRIPTS, explore, page
from bench.report.explorer.data import data
from bench.report.rows import read
from tests.bench.records import make, matrix, write
from tests.bench.report.explorer.turns import many, model

pytestmark = pytest.mark.usefixtures("known")

HOSTILE = "</script><script>window.hacked=1</script><!--\"'`$&$1\u2028\u2029\\ <img src=x onerror=window.hacked=1>"


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for the library of charts, which takes seconds to bundle."""
    text = "window.vegaEmbed = () => null;"
    monkeypatch.setattr(explorer, "library", lambda: text)
    return text


def within(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_is_under_three_megabytes_without_its_records_and_asks_for_nothing(tmp_path: Path) -> None:
    known = data([read(write(tmp_path / "box", matrix(1)))], [""])
    text = page(known, explorer.library())
    assert len(text.encode()) - len(json.dumps(known)) < 3e6
    assert "vegaEmbed=" in text
    own = text.replace(explorer.library(), "")
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)[^"']+|@import|url\(""", own) == []
    assert "default-src 'none'" in own


@pytest.mark.usefixtures("charts")
def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "results" / "box", matrix(2, seeds=2))
    paths = [explore(tmp_path / "results")[0], explore(tmp_path / "results", tmp_path / "results" / "again.html")[0]]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0] == tmp_path / "results" / "explorer.html"


@pytest.mark.usefixtures("charts")
def test_names_are_data_and_never_markup(tmp_path: Path) -> None:
    records = [
        make("accuracy", backbone=HOSTILE, miou=1.0, class_iou={HOSTILE: 2.0}),
        make("latency", backbone=HOSTILE, status="error", reason=HOSTILE),
    ]
    write(tmp_path / "box", records)
    path, _ = explore(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 3
    assert "<img" not in text
    found = within(text)
    assert found["fields"]["backbone"]["values"] == [printable(HOSTILE)]
    classes = next(one["classes"] for one in found["measures"] if "classes" in one)
    assert classes["class_iou"]["names"] == [[printable(HOSTILE)]]
    assert [one["reason"] for one in found["measures"] if "reason" in one] == [{"0": printable(HOSTILE)}]


def test_a_place_in_the_data_is_not_filled(tmp_path: Path) -> None:
    known = data([read(write(tmp_path / "box", [make("complexity", backbone="<!--{charts}-->", params_m=1.0)]))], [""])
    text = page(known, "CHARTS</script>")
    assert text.count("CHARTS") == 1
    assert r"CHARTS<\/script>" in text


@pytest.mark.usefixtures("charts")
def test_ten_thousand_rows_make_a_page(tmp_path: Path) -> None:
    records = many()
    write(tmp_path / "box", records)
    path, rows = explore(tmp_path)
    assert rows == 10_000
    assert path.stat().st_size < 3e6, "columns, not rows"


def test_all_scripts_are_in_it() -> None:
    folder = Path(explorer.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.js")) == sorted(SCRIPTS)


@pytest.mark.usefixtures("charts")
def test_pictures_are_looked_for_beside_the_records(tmp_path: Path) -> None:
    write(tmp_path / "results" / "a box#1", model("a", [1.0], 2.0))
    near, _ = explore(tmp_path / "results")
    assert within(near.read_text())["machines"] == [["a box#1", "a%20box%231/pictures/"]]
    (tmp_path / "pages").mkdir()
    far, _ = explore(tmp_path / "results" / "a box#1", tmp_path / "pages" / "x.html")
    assert within(far.read_text())["machines"] == [["a box#1", "../results/a%20box%231/pictures/"]]
    inside, _ = explore(tmp_path / "results" / "a box#1")
    assert within(inside.read_text())["machines"] == [["a box#1", "pictures/"]]


@pytest.mark.usefixtures("charts")
def test_verbs_write_it_and_say_where(tmp_path: Path) -> None:
    write(tmp_path / "box", model("a", [1.0], 2.0))
    done = CliRunner().invoke(cli.app, ["explore", "--results", str(tmp_path), "--out", str(tmp_path / "x.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "x.html").exists()
    done = CliRunner().invoke(cli.app, ["report", "--html", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "explorer.html").read_bytes() == (tmp_path / "x.html").read_bytes()


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["densebench", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.usefixtures("charts")
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no records" in refused(["explore", "--results", str(empty)], monkeypatch, capsys)
    folder = write(tmp_path / "results" / "box", model("a", [1.0], 2.0)).parent
    there = ["--results", str(folder)]
    missing = str(tmp_path / "nowhere" / "x.html")
    said = refused(["explore", *there, "--out", missing], monkeypatch, capsys)
    assert "No such file or directory" in said
    assert "--out" in said
    assert "Is a directory" in refused(["explore", *there, "--out", str(empty)], monkeypatch, capsys)
    assert "exclude each other" in refused(["report", "--check", "--html", *there], monkeypatch, capsys)
    assert [path.name for path in (*empty.iterdir(), *folder.iterdir())] == ["box"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.setattr(explorer, "library", explorer.library.__wrapped__)
    write(tmp_path / "box", model("a", [1.0], 2.0))
    with pytest.raises(UserError, match=r"pip install -e '\.\[explore\]'"):
        explore(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
