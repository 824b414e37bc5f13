"""What the single kinds of pictures show, leave out, and say of it."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bench.plan.measure import Column
from bench.report.pictures import curves, grids, parts, scaling, scores
from bench.report.pictures.common import best, current, file_name, folded, names
from bench.report.rows import Part, Table, read
from bench.store.record import Record
from tests.bench.records import write
from tests.bench.report.cells import SIZES, record, scored, straight, timed

MIOU = Column("miou", "%", "mIoU", "higher")
LOSS = [3.0, 2.0, 1.0]


def table(tmp_path: Path, records: list[Record]) -> Table:
    (one,) = read(write(tmp_path / "box", records)).tables
    return one


def drawn(kind, tmp_path: Path, records: list[Record], ending: str) -> Figure:
    return next(one for one in kind.pictures(table(tmp_path, records)) if one.name.endswith(ending)).draw()


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def heading(figure: Figure) -> str:
    return figure.get_suptitle()


def part(**fields) -> Part:
    one = scored(fields.pop("height", 64), mean=fields.pop("mean", 20.0), **fields)
    return Part("accuracy", {name: value for name, value in one.fields.items() if name != "seed"}, (one,))


def test_rows_are_named_by_what_differs():
    assert names([part(), part(patch=8)]) == ["vit_pico/16", "vit_pico/8"]
    assert names([part(), part(height=128)]) == ["64", "128"], "what all share is in the heading"
    assert names([part(), part(backbone="b", head="upernet_pico")]) == ["vit_pico/16 linear", "b/16 upernet_pico"]
    assert names([part(recipe="short+steps=9"), part(recipe="short")]) == ["steps=9", "short"]


def test_long_names_are_folded_behind_an_underscore():
    assert folded(["timm:vit_small_patch14_dinov2/14", "linear"]) == "timm:vit_small_patch14_\ndinov2/14 linear"
    assert folded(["short", "one"]) == "short one"


def test_names_of_files_suit_any_file_system():
    assert file_name("a", "voc:bccd/1", "", None, "x=0.5") == "a_voc-bccd-1_x=0.5"


def test_the_best_of_every_backbone_comes_before_the_second_best_of_one():
    one, two, three = part(mean=30.0), part(mean=29.0, patch=8), part(mean=1.0, backbone="swin_pico")
    assert best([three, two, one], MIOU, 2) == [one, three]
    assert best([three, two, one], MIOU, 3) == [one, two, three]


def test_an_earlier_revision_is_left_out_beside_the_present_one():
    now, then = part(backbone="swin_pico"), part(backbone="swin_pico@1")
    assert current([then, now]) == [now]
    assert current([then]) == [then]
    assert current([then, part(backbone="swin_pico", patch=8)])[0] is then, "of another cell"


def grid_records() -> list[Record]:
    places = [(8, 64, 20.0), (16, 64, 10.0), (16, 128, 15.0)]
    found = [scored(size, mean=mean, patch=patch, loss=LOSS) for patch, size, mean in places]
    return found + [timed(size, mean, patch=patch) for patch, size, mean in places]


def test_a_grid_has_figures_and_dots_and_the_better_end_is_bright(tmp_path):
    figure = drawn(grids, tmp_path, grid_records(), "linear_grid")
    accuracy, time = figure.axes
    assert texts(accuracy) == ["20.0", "10.0", "15.0", "·"]
    assert [text.get_color() for text in accuracy.texts[:2]] == ["black", "white"]
    assert [text.get_color() for text in time.texts[:2]] == ["white", "black"], "less time is better"
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["8", "16"]
    assert "recipe short" in accuracy.get_title()
    assert "batch 1" in time.get_title()


def test_one_patch_or_one_size_is_no_grid(tmp_path):
    alike = [scored(size, loss=LOSS) for size in SIZES]
    assert list(grids.pictures(table(tmp_path, alike))) == []
    alike = [scored(64, patch=patch, loss=LOSS) for patch in (8, 16, 32)]
    assert list(grids.pictures(table(tmp_path, alike))) == []


def test_lines_have_their_exponents_in_the_legend(tmp_path):
    records = straight(1.5) + [timed(size, size**2 / 1e3 + 20, backbone="swin_pico") for size in SIZES]
    records += [record("memory", size, peak_mib=size**2 / 1e3) for size in SIZES]
    figure = drawn(scaling, tmp_path, records, "linear_b1_scaling")
    latency, memory = figure.axes
    labels = sorted(latency.get_legend_handles_labels()[1])
    assert labels[0].startswith("swin_pico/16: no power law, 0.")
    assert labels[1].startswith("vit_pico/16: 1.50 (1.")
    assert memory.get_legend_handles_labels()[1] == ["vit_pico/16: 1.00 (1.00 to 1.00)"]
    assert [label.get_text() for label in latency.get_xticklabels()] == ["64²", "128²", "256²", "512²"]


def test_more_backbones_than_styles_leave_out_the_same_in_both_panels(tmp_path):
    """Those of the fewest sizes, however the sizes of time and memory differ."""
    records = []
    for index in range(10):
        name = f"b{index:02}"
        records += straight(1.0, sizes=SIZES if index < 8 else SIZES[:3], backbone=name)
        sizes = SIZES if index > 1 else SIZES[:3]
        records += [record("memory", size, peak_mib=size**2 / 1e3, backbone=name) for size in sizes]
    figure = drawn(scaling, tmp_path, records, "linear_b1_scaling")
    shown = [{label.partition(":")[0] for label in axes.get_legend_handles_labels()[1]} for axes in figure.axes]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 7


def model(index: int, ms: float, **given) -> Record:
    times = {"backbone_ms": ms, "head_ms": ms / 2, "post_ms": ms / 4} | given
    return timed(128, ms, backbone=f"model_{index:02}", **times)


def test_parts_are_stacked_the_cheapest_first_and_twenty_at_most(tmp_path):
    figure = drawn(parts, tmp_path, [model(index, 30.0 - index) for index in range(22)], "b1_parts")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["model_21/16", "model_20/16"]
    assert len(axes.get_yticks()) == 20
    assert "the 2 slowest are not shown" in heading(figure)
    widths = [[bar.get_width() for bar in group] for group in axes.containers]
    assert [group[0] for group in widths] == [9.0, 4.5, 2.25]
    assert axes.containers[2][0].get_x() == pytest.approx(13.5)


def test_a_bar_that_would_hide_the_others_is_cut_and_says_so(tmp_path):
    figure = drawn(parts, tmp_path, [model(0, 10.0), model(1, 11.0), model(2, 1000.0)], "b1_parts")
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 30
    assert texts(axes)[-1] == "1750 →"


def test_parts_that_are_not_all_known_are_no_bar(tmp_path):
    assert list(parts.pictures(table(tmp_path, [model(0, 10.0), model(1, 11.0, post_ms=None)]))) == []


def test_of_many_classes_those_are_shown_that_differ_most(tmp_path):
    classes = " ".join(f"c{index:02}" for index in range(25))
    records = [
        scored(64, mean=mean, classes=classes, loss=LOSS, backbone=name) for mean, name in ((20.0, "a"), (10.0, "b"))
    ]
    figure = drawn(scores, tmp_path, records, "class_iou")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"c{index:02}" for index in range(24, 4, -1)], "the models differ by a share of the figure"
    assert "the 20 of 25 classes that differ most" in heading(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a/16", "b/16"]


def test_an_unknown_class_has_a_question_mark_and_no_bar(tmp_path):
    records = [scored(64, classes="x y", loss=LOSS), scored(64, mean=10.0, classes="x", loss=LOSS, backbone="b")]
    figure = drawn(scores, tmp_path, records, "class_iou")
    assert texts(figure.axes[1]) == ["?", "10.0"]


def test_sizes_say_how_many_models_lack_them(tmp_path):
    sizes = {"miou_small": 1.0, "miou_medium": 2.0, "miou_large": 3.0}
    records = [scored(64, loss=LOSS, backbone=name, **sizes) for name in ("a", "b")] + [scored(64, loss=LOSS)]
    figure = drawn(scores, tmp_path, records, "short_sizes")
    assert "without these columns: 1" in heading(figure)
    assert [texts(axes) for axes in figure.axes] == [["20.0", "20.0"], ["1.0", "1.0"], ["2.0", "2.0"], ["3.0", "3.0"]]


def test_changed_fields_of_a_recipe_stand_beside_it(tmp_path):
    records = [scored(64, loss=LOSS, classes="x", recipe=recipe) for recipe in ("real", "real+steps=9")]
    figure = drawn(scores, tmp_path, records, "real_class_iou")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["real", "steps=9"]


def test_untrained_models_are_in_no_picture(tmp_path):
    records = [scored(64, loss=[2.0], classes="x", backbone=name, recipe="untrained") for name in ("a", "b")]
    for kind in (scores, curves, grids):
        assert list(kind.pictures(table(tmp_path, records))) == []


def test_a_curve_is_the_mean_over_seeds_as_far_as_all_went(tmp_path):
    records = [scored(64, loss=[3.0, 2.0, 1.0]), scored(64, loss=[1.0, 1.0], seed=1)]
    (row,) = table(tmp_path, records).rows
    assert curves.curve(row.parts["accuracy"]) == [2.0, 1.5]


def test_a_smoothed_curve_keeps_its_mean_and_its_place():
    steps, means = curves.smoothed([float(step) for step in range(1, 121)])
    assert len(means) == curves.WINDOWS
    assert means[0] == pytest.approx(2.5)
    assert steps[0] == pytest.approx(2.5), "the middle of steps 1 to 4"
    assert means == steps, "a straight line stays where it is"


def test_what_all_lines_of_a_panel_share_is_in_its_title(tmp_path):
    records = [scored(64, loss=LOSS, recipe=recipe) for recipe in ("real", "real+steps=9")]
    figure = drawn(curves, tmp_path, [*records, scored(64, loss=LOSS, recipe="real", backbone="a", head="dpt")], "loss")
    panels = {axes.get_title(loc="left"): axes.get_legend_handles_labels()[1] for axes in figure.axes}
    assert panels == {"linear, vit_pico/16": ["real", "steps=9"], "dpt": ["a/16"]}


def test_a_column_without_any_grid_is_left_out(tmp_path):
    records = [timed(size, 1.0, patch=patch) for size, patch in ((64, 8), (64, 16), (128, 16))]
    figure = drawn(grids, tmp_path, [*records, scored(64, loss=LOSS)], "linear_grid")
    assert len(figure.axes) == 1


def test_every_head_has_a_panel_of_its_own(tmp_path):
    records = [scored(64, loss=LOSS, backbone=name) for name in ("a", "b")]
    records += [scored(64, loss=LOSS, backbone="a", head="upernet_pico")]
    figure = drawn(curves, tmp_path, records, "short_loss")
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["linear", "upernet_pico"]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["a/16", "b/16"]
