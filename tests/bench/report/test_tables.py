"""Tables from records: what they say, and that the same records give the same bytes."""

import csv
import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import UserError
from bench.plan import recipe as recipes
from bench.report.compare import compare
from bench.report.explorer import explore
from bench.report.figure import figures
from bench.report.pictures import draw
from bench.report.rows import read
from bench.report.style import canvas, save
from bench.report.tables import Result, report, summary_table
from tests.bench.records import environment, make, matrix, write

pytestmark = pytest.mark.usefixtures("known")


def _tables(tmp_path: Path, *records: object, **given: object) -> dict[str, str]:
    folder = write(tmp_path / "results" / "box", *records, **given)  # pyright: ignore[reportArgumentType]
    report(folder.parent)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in {".md", ".csv"}}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_table_says_what_was_measured(tmp_path: Path) -> None:
    records = [
        make("accuracy", seed=0, miou=40.0, pixels=80.0, class_iou={"disc": 50.0, "ring": 0.0}),
        make("accuracy", seed=1, miou=42.0, pixels=81.0, class_iou={"disc": 54.0, "ring": 0.0}),
        make("latency", latency_ms=5.25, images_per_s=1523.8),
        make("latency", backbone="big", status="oom", reason="a|b\n__x__ <y>"),
    ]
    text = _tables(tmp_path, records)["segmentation.md"]
    head = _cells(_line(text, "| rank | backbone | patch | head | input | mIoU"))
    expected = ["rank", "backbone", "patch", "head", "input", "mIoU (%) ± sd (seeds)", "pixel accuracy (%)"]
    # Columns that nothing is known about are not there; fields that do not vary are above the table.
    assert head == [*expected, "latency (ms)", "images/s", "status"]
    row = ["1", "vit_pico", "16", "linear", "128x128", "41.0 ± 1.4 (2)", "80.5", "5.2", "1523.8", ""]
    assert _cells(_line(text, "| 1 | vit_pico")) == row
    assert _cells(_line(text, "|  | big"))[5:] == ["", "", "", "", "latency: oom"]
    assert "batch 8, dtype fp32" in text
    assert "| vit_pico | 16 | linear | 128x128 | 52.0 | 0.0 |" in text
    assert r"| latency | big 16 linear 128x128 | oom | a\|b \_\_x\_\_ &lt;y> |" in text
    assert "short-budget learnability" in text
    assert "What latency means." in text
    assert "sd 1.41 (1 degrees of freedom)" in text


def test_how_a_recipe_trains_is_what_its_records_say_or_the_house_knows(tmp_path: Path) -> None:
    recipes.digest.cache_clear()
    records = [
        make("accuracy", recipe="mine@3f2a1c8", miou=40.0, trained="9 steps of 2 images, pictures stretched"),
        make("accuracy", recipe="photos", miou=41.0, inputs={"recipe": recipes.digest("photos", "segmentation")}),
        make("accuracy", recipe="other@0000000", miou=42.0),
    ]
    text = _tables(tmp_path, records)["segmentation.md"]
    assert "- mine@3f2a1c8: 9 steps of 2 images, pictures stretched\n" in text
    assert "- photos: 1200 steps of 8 images, pictures cropped to the input, aspect kept, zoom 0.75 to 1.75" in text
    assert "- other" not in text


def test_what_is_said_of_the_data_is_said_once(tmp_path: Path) -> None:
    rule = "val is 20 % of the list default.txt"
    records = [
        make("complexity", params_m=1.0, inputs={"dataset": rule}),
        make("accuracy", miou=40.0, inputs={"dataset": f"{rule}; 2 of 90 train images left out"}),
    ]
    folder = write(tmp_path / "results" / "box", records)
    report(tmp_path / "results")
    lines = (folder / "segmentation.md").read_text().splitlines()
    assert f"Data: {rule}; 2 of 90 train images left out." in lines
    write(folder, [make("complexity", params_m=1.0)])
    report(tmp_path / "results")
    assert "Data:" not in (folder / "segmentation.md").read_text()


def test_fields_that_vary_have_a_column(tmp_path: Path) -> None:
    text = _tables(tmp_path, [make("latency", batch=batch, latency_ms=1.0) for batch in (1, 8)])["segmentation.md"]
    assert "| rank | backbone | patch | head | input | batch | latency (ms) | status |" in text
    assert "Nothing here is ranked." in text


def test_csv_has_everything(tmp_path: Path) -> None:
    records = [
        make("accuracy", seed=0, miou=0.1, class_iou={"disc": 50.0, "ring": None}),
        make("accuracy", seed=1, miou=0.3, class_iou={"disc": 51.0, "ring": None}),
        make("complexity", tokens=64, params_m=None),
        make("memory", status="error", reason='two\nlines, "quoted"'),
        make("memory", batch=1, peak_mib=1 / 3),
    ]
    found = _tables(tmp_path, records)["segmentation.csv"]
    small, large = csv.DictReader(io.StringIO(found))
    assert (small["batch"], small["peak_mib"], small["status_memory"]) == ("1", repr(1 / 3), "ok")
    assert (large["batch"], large["peak_mib"], large["status_memory"]) == ("8", "", "error")
    assert large["reason_memory"] == 'two\nlines, "quoted"'
    for row in (small, large):
        assert (row["miou"], row["miou_sd"], row["miou_n"]) == ("0.2", repr(0.02**0.5), "2")
        assert (row["class_iou[disc]"], row["class_iou[disc]_n"]) == ("50.5", "2")
        assert (row["tokens"], row["tokens_sd"], row["params_m"], row["images_per_s"]) == ("64", "", "", "")
        assert "ap" not in row
        assert row["environment"] == "here"


def test_unknown_is_never_zero_and_small_is_never_zero(tmp_path: Path) -> None:
    records = [make("latency", latency_ms=0.004), make("complexity", params_m=None), make("accuracy", status="timeout")]
    text = _tables(tmp_path, records)["segmentation.md"]
    assert _cells(_line(text, "|  | vit_pico")) == [
        "",
        "vit_pico",
        "16",
        "linear",
        "128x128",
        "0.004",
        "accuracy: timeout",
    ]


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    records = matrix(2, seeds=3)
    first = _tables(tmp_path, records)
    laws = {"laws.md", "laws.csv"}
    assert set(first) == {"segmentation.md", "segmentation.csv", "detection.md", "detection.csv"} | laws
    random.Random(0).shuffle(records)
    assert _tables(tmp_path, records) == first


def test_environments_are_not_mixed(tmp_path: Path) -> None:
    described = [environment("a"), environment("b", cpu="Other CPU")]
    records = [make("accuracy", environment=name, miou=miou) for name, miou in (("a", 40.0), ("b", 50.0))]
    text = _tables(tmp_path, records, environments=described)["segmentation.md"]
    assert (
        text.index("## scenes: Other CPU") < text.index("50.0") < text.index("## scenes: Test CPU") < text.index("40.0")
    )
    assert text.count("| 1 | vit_pico") == 2


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    records = [make("latency", latency_ms=1.0), *(make("latency", version=0, batch=batch) for batch in (1, 2))]
    text = _tables(tmp_path, records)["segmentation.md"]
    assert "Records of this machine that are in no table: 2 of an older version of their measure." in text


def test_check_finds_what_differs_is_missing_or_is_stale(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folder = write(results / "box", matrix(1))
    (folder / "README.md").write_text("mine", encoding="utf-8")
    assert len(report(results, check=True).differing) == 6
    assert not (folder / "segmentation.md").exists()
    assert [path.name for path in report(results).written] == [
        "detection.csv",
        "detection.md",
        "segmentation.csv",
        "segmentation.md",
        "laws.md",
        "laws.csv",
    ]
    assert report(results).written == ()
    assert report(results, check=True).ok
    (folder / "segmentation.md").write_text("edited", encoding="utf-8")
    write(folder, [record for record in matrix(1) if record.fields["head"] != "fcos"])
    checked = report(results, check=True)
    assert not checked.ok
    changed = ["laws.csv", "laws.md", "segmentation.md"]
    assert [path.name for path in checked.differing] == ["detection.csv", "detection.md", *changed]
    done = report(results)
    assert [path.name for path in done.removed] == ["detection.csv", "detection.md"]
    assert sorted(path.name for path in folder.glob("*.md")) == ["README.md", "laws.md", "segmentation.md"]
    assert report(results, check=True) == Result(unchanged=done.unchanged + done.written)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "results" / "box", matrix(1))
    (folder / "detection.csv").mkdir()
    with pytest.raises(UserError, match=r"results/box cannot be written"):
        report(tmp_path / "results")


def test_the_summary_fits_a_terminal(tmp_path: Path) -> None:
    folder = write(tmp_path / "box", [*matrix(1, seeds=2), make("latency", backbone="big", status="oom")])
    console = Console(file=io.StringIO(), width=90)
    for table in read(folder).tables:
        console.print(summary_table(table))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    # vit_0 at patch 8 under linear: 30 - 8 / 4 + 0 and half a point more for the second seed.
    assert "28.2 ± 0.4" in text
    assert "latency: oom" in text
    assert max(map(len, text.splitlines())) <= 90
    assert "Throughout: weights random, batch 8, dtype fp32" in text


def test_a_frame_has_one_line_a_seed(tmp_path: Path) -> None:
    from bench.report.frame import load

    records = [
        make("accuracy", seed=0, miou=40.0, class_iou={"disc": 1.0}),
        make("accuracy", seed=1, status="error", reason="boom"),
        make("latency", latency_ms=5.0),
        make("latency", backbone="other", latency_ms=6.0),
    ]
    write(tmp_path / "results" / "box", records)
    frame = load(tmp_path / "results").sort_values(["backbone", "seed"]).reset_index(drop=True)
    assert list(frame["latency_ms"]) == [6.0, 5.0, 5.0]
    assert list(frame["seed"].isna()) == [True, False, False]
    assert list(frame["miou"].isna()) == [True, False, True]
    assert list(frame["status_accuracy"])[1:] == ["ok", "error"]
    assert list(frame["class_iou[disc]"])[1] == 1.0
    assert frame.attrs["units"]["latency_ms"] == "ms"


def test_a_frame_of_several_roots_keeps_machines_of_one_name_apart(tmp_path: Path) -> None:
    from bench.report.frame import load

    for root, latency in (("mine", 5.0), ("theirs", 7.0)):
        old = make("latency", version=0, latency_ms=1.0)
        write(tmp_path / root / "box", [make("latency", latency_ms=latency), old])
    mine, theirs = str(tmp_path / "mine"), str(tmp_path / "theirs")
    frame = load(mine, theirs)
    assert list(frame.columns[:2]) == ["root", "machine"]
    assert list(zip(frame["root"], frame["machine"], frame["latency_ms"], strict=True)) == [
        (mine, "box", 5.0),
        (theirs, "box", 7.0),
    ]
    assert list(frame.attrs["left_out"]) == [f"{mine}/box", f"{theirs}/box"]
    alone = load(mine)
    assert "root" not in alone.columns
    assert list(alone.attrs["left_out"]) == ["box"]
    for twice in (mine, f"{mine}/box", Path(mine)):
        with pytest.raises(UserError, match=r"mine/box is in .* and would count twice"):
            load(mine, twice)


@pytest.mark.slow
def test_a_figure_is_the_same_for_the_same_records(tmp_path: Path) -> None:
    from bench.report.figure import figure

    folder = write(tmp_path / "box", matrix(2, seeds=2))
    first, second = (figure(folder, "segmentation", tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(b"\x89PNG")
    assert first == second
    with pytest.raises(UserError, match="nowhere"):
        figure(folder, "segmentation", tmp_path / "nowhere" / "a.png")


@pytest.mark.slow
def test_a_figure_has_a_panel_for_what_may_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.report import figure as module

    drawn = []
    monkeypatch.setattr(module, "_panel", lambda axes, section, colours, markers: drawn.append(section.points))
    records = matrix(2, seeds=2)
    for field, value in (("batch", 1), ("recipe", "real")):
        records += [replace(one, fields={**one.fields, field: value}) for one in records if field in one.fields]
    module.figure(write(tmp_path / "box", records), "segmentation", tmp_path / "a.png")
    contexts = [{module._context(point) for point in points} for points in drawn]
    assert all(len(context) == 1 for context in contexts)
    assert set().union(*contexts) == {(recipe, batch) for recipe in ("short", "real") for batch in (1, 8)}
    assert len(contexts) == 4
    untrained = [
        replace(one, fields={**one.fields, **({"recipe": "untrained"} if "recipe" in one.fields else {})})
        for one in records
    ]
    with pytest.raises(UserError, match="untrained models"):
        module.figure(write(tmp_path / "raw", untrained), "segmentation", tmp_path / "b.png")
    assert module.figures(tmp_path / "raw") == []


def test_a_figure_in_company_is_marked_and_the_reason_is_in_the_csv(tmp_path: Path) -> None:
    quiet = make("latency", backbone="a", latency_ms=1.0)
    crowded = make("latency", backbone="b", latency_ms=9.0, company="others kept 1.0 cores busy")
    folder = write(tmp_path / "box", [quiet, crowded, make("complexity", backbone="b", params_m=2.0)])
    report(tmp_path)
    text = (folder / "segmentation.md").read_text()
    assert "| ≈ 9.0 |" in text
    assert "≈ 1.0" not in text
    assert "≈ 2.00" not in text, "what was not timed is what it is"
    assert "no claim is made of it" in text
    rows = list(csv.DictReader((folder / "segmentation.csv").read_text().splitlines()))
    assert {row["backbone"]: (row["latency_ms"], row["company_latency"]) for row in rows} == {
        "a": ("1.0", ""),
        "b": ("9.0", "others kept 1.0 cores busy"),
    }
    write(folder, [quiet])
    report(tmp_path)
    assert "company" not in (folder / "segmentation.csv").read_text(), "only where there is any"


def test_names_that_are_no_text_or_steer_a_terminal_are_shown_as_escapes_everywhere(tmp_path: Path) -> None:
    """A machine's folder, a class, a data set and a reason, all called what a file system allows."""
    ugly = "b\udcff\x1b[31m\x07\x9b\u202e"
    shown = r"b\udcff\x1b[31m\x07\x9b\u202e"
    records = [
        make("accuracy", dataset=ugly, miou=40.0, class_iou={f"ro{ugly}": 50.0}, inputs={"dataset": f"val is {ugly}"}),
        make("latency", dataset=ugly, latency_ms=5.25, images_per_s=1523.8, company=f"{ugly} was busy"),
        make("latency", dataset=ugly, backbone="big", status="error", reason=f"no file {ugly}"),
    ]
    folder = write(tmp_path / "results" / ugly, records)
    report(folder.parent)
    assert report(folder.parent, check=True).ok
    for kind in ("md", "csv"):
        text = (folder / f"segmentation.{kind}").read_bytes().decode("utf-8")
        assert not [letter for letter in text if not letter.isprintable() and letter not in "\n\xa0"]
        for name in (shown, f"ro{shown}", f"no file {shown}"):
            bare = text.replace("\\\\", "\\").replace(r"\[", "[")
            assert name in bare
    console = Console(file=io.StringIO(), width=200)
    (table,) = read(folder).tables
    console.print(summary_table(table, wide=True))
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert not [letter for letter in said.encode().decode() if not letter.isprintable() and letter != "\n"]
    found = compare(folder.parent, machine=shown)
    assert shown in found.as_csv().encode().decode()
    _, rows = explore(folder.parent)
    assert rows == 2
    assert figures(folder.parent)


def test_what_begins_as_a_formula_is_a_text_in_csv_and_numbers_stay_numbers(tmp_path: Path) -> None:
    reasons = {"a": '=HYPERLINK("x")', "b": "@SUM(A1)", "c": "+1 more", "d": "-1", "e": "-x", "f": "plain"}
    records = [
        make("latency", backbone=name, dataset="=1+1", status="error", reason=text) for name, text in reasons.items()
    ]
    text = _tables(tmp_path, [*records, make("turns", dataset="=1+1", turn_ms=-2.5)])["segmentation.csv"]
    lines = list(csv.DictReader(io.StringIO(text)))
    told = {line["backbone"]: line["reason_latency"] for line in lines if line["reason_latency"]}
    assert told == {"a": '\'=HYPERLINK("x")', "b": "'@SUM(A1)", "c": "'+1 more", "d": "-1", "e": "'-x", "f": "plain"}
    assert {line["dataset"] for line in lines} == {"'=1+1"}
    assert "-2.5" in {line["turn_ms"] for line in lines}


def test_dollar_signs_in_names_are_drawn_and_begin_no_formula(tmp_path: Path) -> None:
    """matplotlib fails over mathematics that it cannot read."""
    name = r"$\frac$"
    records = [
        one
        for size in (64, 128)
        for one in (
            make(
                "accuracy",
                backbone=name,
                dataset=name,
                height=size,
                width=size,
                miou=40.0 + size,
                class_iou={name: 5.0},
            ),
            make("latency", backbone=name, dataset=name, height=size, latency_ms=5.25, images_per_s=15.0),
        )
    ]
    folder = write(tmp_path / "results" / "box", records, [environment("here", cpu=name)])
    assert figures(folder.parent)
    drawing = canvas(2)
    axes = drawing.subplots()
    axes.barh([0, 1], [1, 1000])
    axes.set_yticks([0, 1], [name, "b"])
    axes.set_xscale("log")
    axes.legend(handles=[axes.plot([0], [1], label=name)[0]])
    axes.annotate(name, (1, 1))
    save(drawing, tmp_path / "one.png")
    assert axes.get_yticklabels()[0].get_text() == name
    assert draw(folder.parent)


def test_trainings_that_do_not_repeat_are_said_below_their_table(tmp_path: Path) -> None:
    here = [make("accuracy", miou=40.0)]
    assert "to the bit" not in _tables(tmp_path / "cpu", here)["segmentation.md"]
    there = [make("accuracy", miou=40.0, unrepeatable="on cuda sums are added up in another order each time")]
    assert "Trainings on a GPU do not repeat to the bit" in _tables(tmp_path / "gpu", there)["segmentation.md"]
