"""The explorer in a real browser, from a file and without a network."""

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.report.compare import compare
from tests.bench.records import small_catalogue, write
from tests.bench.report.explorer.turns import COMPETING, SHOWN

Visit = Callable[..., Any]
HERE = "f.machine=one&f.task=segmentation&f.dataset=scenes&f.recipe=short"
VIEW = f"#x=turn_ms&y=miou&colour=backbone&sort=-miou&{HERE}"


def answer(page: Any) -> str:
    return page.inner_text("#answers")


def drawn(page: Any, points: int) -> None:
    page.wait_for_selector(f"#chart[data-drawn='{points}']")


def names(page: Any) -> list[str]:
    """Texts of the backbone's column."""
    head = [text.strip() for text in page.locator("#table thead th").all_inner_texts()]
    place = next(index for index, text in enumerate(head) if text.startswith("backbone"))
    return page.locator(f"#table tbody tr td:nth-child({place + 1})").all_inner_texts()


def downloaded(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as found:
        page.click("#csv")
    with Path(found.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_opens_at_one_machine_task_data_set_and_recipe(visit: Visit, small: Path) -> None:
    page = visit(small)
    for name in ("one", "segmentation", "scenes", "short"):
        assert page.locator(f"#filters input[value='{name}']").first.is_checked()
    assert "11 rows of 2 machines" in page.inner_text("#summary")
    assert page.input_value("#y") == "miou"
    assert "comparable" not in page.inner_text("#warning")


def test_the_answer_is_the_best_those_like_it_and_the_cheapest_of_them(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    said = answer(page)
    assert re.search(r"Pick: close/16 .* mIoU 30.0 .* lowest turn of 2 that cannot be told apart", said)
    assert "Best mIoU: best/16 linear 128x128 with 31.0" in said
    assert "1 other cannot be told apart from it: close/16" in said
    assert "1 row of it has turn taken in company (≈), of which nothing is claimed" in said
    assert page.get_attribute("#answers", "aria-live") == "polite"


def test_where_seed_noise_is_unknown_nothing_is_told_apart(visit: Visit, small: Path) -> None:
    said = answer(visit(small, VIEW.replace("machine=one", "machine=two")))
    assert re.search(r"Pick: best/16 .*; the best mIoU\.", said)
    assert "What may be claimed is not known of all mIoU here: a small difference may be chance" in said


def test_a_constraint_is_set_by_the_keyboard_and_changes_the_answer(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    slider = page.locator("[data-limit=turn_ms]")
    slider.focus()
    assert slider.get_attribute("aria-valuetext") == "any"
    for _ in range(3):  # leaves out nothing yet, then 30 ms, then 20 ms
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#answers').innerText.includes('15')")
    assert slider.get_attribute("aria-valuetext") == "≤ 15.0"
    assert "the best mIoU within turn ≤ 15.0 ms, told apart from all 2 others" in answer(page)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#answers').innerText.includes('quick')")
    said = answer(page)
    assert "Pick: quick/16" in said
    assert "By turn alone the pick cannot be told apart from far/16" in said
    assert "limit.turn_ms=12" in page.url
    assert "best" not in names(page), "rows outside the constraints are not in the table"
    page.keyboard.press("End")
    page.wait_for_function("!location.hash.includes('limit')")
    assert "Pick: close/16" in answer(page)


def test_a_time_in_company_is_no_ground_for_a_pick(visit: Visit, small: Path) -> None:
    page = visit(small, f"{VIEW}&limit.turn_ms=14")
    said = answer(page)
    assert "odd" not in said, "the best and the quickest, were it certain"
    assert "Pick: quick/16" in said
    alone = visit(small, f"{VIEW}&f.backbone=odd")
    assert "No pick: turn of what is best was taken in company" in answer(alone)
    assert "Best mIoU: odd/16 linear 128x128 with 13.5" in answer(alone)


def test_an_exact_limit_is_typed(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.fill("[data-of=miou] input[type=number]", "99.5")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#answers').innerText.includes('loosen')")
    page.fill("[data-of=miou] input[type=number]", "")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#answers').innerText.includes('Pick: close')")
    page.select_option("#add-limit", "turn_ci_pct")
    assert page.locator("[data-limit=turn_ci_pct]").is_visible()


def test_one_class_is_limited_like_any_column(visit: Visit, small: Path) -> None:
    page = visit(small, f"#x=turn_ms&y=miou&{HERE}")
    wanted = "class_iou[disc]"
    assert page.locator(f"#add-limit option[value='{wanted}']").count() == 1
    page.select_option("#add-limit", wanted)
    slider = page.locator(f"[data-limit='{wanted}']")
    assert slider.evaluate("one => one === document.activeElement")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#answers').innerText.includes('odd')")
    said = answer(page)
    assert "IoU of disc ≥ 80" in said
    assert "odd/16" in said
    again = visit(small, page.evaluate("location.hash"))
    assert answer(again) == said, "it is in the address, too"


def test_its_fronts_are_those_of_compare(visit: Visit, small: Path, tmp_path: Path) -> None:
    with small_catalogue(tmp_path / "catalogue"):
        write(tmp_path / "one", COMPETING)
        (section,) = compare(tmp_path, cost="turn_ms").sections
    expected = {
        point.fields["backbone"]: "front" if point.pareto else "near" if point.near else "" for point in section.points
    }
    assert set(expected.values()) == {"front", "near", ""}
    found = {row["backbone"]: row["pareto"] for row in downloaded(visit(small, VIEW))}
    assert {name: mark for name, mark in found.items() if name in expected} == expected
    assert (found["odd"], found["broken"]) == ("", "")


def test_a_front_is_made_of_what_is_on_show(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.locator("[data-filter=backbone] > summary").click()
    for name in ("best", "worse"):
        page.check(f"[data-filter=backbone] input[value={name}]")
    found = {row["backbone"]: (row["pareto"], row["pick"]) for row in downloaded(page)}
    assert found == {"best": ("front", "1"), "worse": ("", "")}
    drawn(page, 2)


def test_axes_are_any_columns(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.select_option("#x", "params_m")
    page.select_option("#y", "class_iou[disc]")
    page.select_option("#colour", "turn_ms")
    drawn(page, 1)
    assert page.inner_text("#chart-title") == "IoU of disc against params"
    assert "differences may be chance" in page.text_content("#notes-text")
    page.select_option("#colour", "ap")
    drawn(page, 1)
    page.select_option("#y", "ap")
    assert "No row on show has both params (M) and AP (%)" in page.inner_text("#chart")


def test_other_recipes_are_never_ranked_along_in_silence(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.click("[data-filter=recipe] button:has-text('all of recipe')")
    page.wait_for_function("document.querySelector('#warning').innerText.includes('Several recipes')")
    assert "not comparable" in page.inner_text("#warning")
    said = answer(page)
    assert "recipe short" in said
    assert "recipe long" in said
    assert "Pick: close/16" in said
    assert re.search(r"Pick: long/16 .*; the only one\.", said)


def test_machines_stand_side_by_side(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.click("#beside")
    drawn(page, 8)
    texts = page.locator("#chart svg text").all_text_contents()
    assert {"one", "two"} <= set(texts)
    assert "Several machines are on show" in page.inner_text("#warning")
    page.locator("#table .open[aria-label*='best/16']").first.click()
    assert "On other machines" in page.inner_text("#detail-body")


def test_a_task_brings_its_own_accuracy(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.select_option("#jump", label="one · detection · scenes · short (1)")
    page.wait_for_function("document.querySelector('#y').value === 'ap'")
    assert "Pick: fcos/16" in answer(page)


def test_a_row_opens_by_the_keyboard_and_closes_to_where_it_was(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.locator("#table .open[aria-label*='best/16']").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#detail').open")
    body = page.locator("#detail-body")
    assert page.inner_text("#detail-title") == "best/16 linear 128x128"
    assert re.search(r"mIoU\s+31.0 %\s+sd 1.4 over 2 seeds", body.inner_text())
    assert re.search(r"turn\s+20.0 ms\s+95 % CI 1\d\.\d to 2\d\.\d", body.inner_text())
    page.wait_for_function("document.querySelectorAll('#detail-body img').length === 2")
    page.wait_for_function("[...document.querySelectorAll('#detail-body img')].every((one) => one.naturalWidth === 8)")
    assert body.locator("img").first.is_visible()
    assert "row=" in page.url
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('#detail').open")
    # The browser tells the page of it a moment later.
    page.wait_for_function("!location.href.includes('row=')")
    page.wait_for_function("(document.activeElement.getAttribute('aria-label') ?? '').includes('best/16')")


def test_a_point_opens_its_row(visit: Visit, small: Path) -> None:
    page = visit(small, f"{VIEW}&f.backbone=worse")
    drawn(page, 1)
    mark = page.locator("#chart svg .mark-symbol path").first
    mark.hover()
    assert "worse/16" in page.inner_text("#tip")
    mark.click()
    assert page.inner_text("#detail-title") == "worse/16 linear 128x128"


def test_points_are_walked_by_the_keyboard(visit: Visit, small: Path) -> None:
    page = visit(small, f"{VIEW}&limit.turn_ms=40")
    drawn(page, 6)
    page.focus("#chart")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#said").startswith("quick/16 linear 128x128, mIoU 12.0 %, turn 11.9 ms")
    tip, mark = page.locator("#tip").bounding_box(), page.locator("#chart svg").bounding_box()
    assert mark["x"] < tip["x"] < mark["x"] + mark["width"]
    page.keyboard.press("Enter")
    assert page.inner_text("#detail-title") == "quick/16 linear 128x128"


def test_what_failed_says_why_and_what_was_in_company_is_marked(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.locator("#table .open[aria-label*='broken/16']").click()
    assert f"turns: oom. no room for {SHOWN}" in page.locator("#detail-body").text_content()
    page.click("#close")
    assert "≈\u00a05.0" in page.inner_text("#table")
    page.locator("#table .open[aria-label*='odd/16']").click()
    assert "a neighbour was busy. Nothing is claimed of it." in page.inner_text("#detail-body")


def test_rows_without_any_number_are_rows_all_the_same(visit: Visit, failed: Path) -> None:
    page = visit(failed)
    assert "no two columns of numbers" in answer(page)
    assert "no two columns of numbers" in page.inner_text("#chart")
    assert names(page) == ["a", "b"]
    page.locator("#table .open").first.click()
    assert "latency: oom. no room" in page.inner_text("#detail-body")


def test_names_are_shown_as_they_are_and_do_nothing(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.locator("#table .open[aria-label*='odd/16']").click()
    assert page.locator("#detail-body table.classes th[scope=row]").all_text_contents() == ["disc", SHOWN]
    page.click("#close")
    page.select_option("#y", f"class_iou[{SHOWN}]")
    drawn(page, 1)
    assert page.evaluate("new URLSearchParams(location.hash.slice(1)).get('y')") == f"class_iou[{SHOWN}]"
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_a_backbone_of_any_name_is_drawn_filtered_and_opened(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW.replace("machine=one", "machine=two"))
    assert names(page) == ["best", SHOWN]
    page.select_option("#facet", "backbone")
    drawn(page, 2)
    assert page.locator("#chart svg text", has_text="onerror").count() == 1
    page.locator("[data-filter=backbone] > summary").click()
    page.locator("[data-filter=backbone] label", has_text="onerror").locator("input").check()
    drawn(page, 1)
    assert names(page) == [SHOWN]
    again = visit(small, "#" + page.url.partition("#")[2])
    assert names(again) == [SHOWN]
    again.locator("#table .open").click()
    assert SHOWN in again.text_content("#detail-title")
    assert shlex.split(again.text_content("#command").replace("\\\n", ""))[3] == SHOWN
    assert again.evaluate("window.hacked") is None


def test_the_whole_view_is_in_its_address(visit: Visit, small: Path) -> None:
    first = visit(small, VIEW)
    first.select_option("#facet", "head")
    first.uncheck("#front")
    first.check("#ylog")
    first.fill("#find", "16 linear")
    first.wait_for_function("location.hash.includes('q=')")
    first.locator("[data-limit=turn_ms]").focus()
    first.keyboard.press("ArrowLeft")
    first.wait_for_function("location.hash.includes('limit.')")
    first.click("#table [data-sort=turn_ms]")
    assert first.evaluate("document.activeElement.dataset.sort") == "turn_ms"
    first.locator("#table .open[aria-label*='far/16']").click()
    again = visit(small, "#" + first.url.partition("#")[2])
    for name in ("#facet", "#x", "#find"):
        assert again.input_value(name) == first.input_value(name)
    assert [again.is_checked(f"#{name}") for name in ("front", "ylog", "bars")] == [False, True, True]
    assert again.inner_text("#detail-title") == first.inner_text("#detail-title") == "far/16 linear 128x128"
    assert names(again) == names(first)
    assert answer(again) == answer(first)
    assert again.url == first.url


def test_an_address_that_knows_too_much_does_no_harm(visit: Visit, small: Path) -> None:
    page = visit(small, "#x=gone&y=nothing&colour=tale&sort=-no&row=123&f.gone=1&limit.gone=1&limit.miou=x&page=999")
    assert page.locator("#table tbody tr").count() == 11
    assert not page.locator("#detail").is_visible()


def test_the_table_sorts_with_what_is_unknown_last(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.click("#table [data-sort=turn_ms]")
    assert page.get_attribute("#table th:has([data-sort=turn_ms])", "aria-sort") == "ascending"
    assert names(page) == ["odd", "quick", "far", "close", "best", "worse", "broken"]
    page.click("#table [data-sort=turn_ms]")
    assert names(page) == ["worse", "best", "close", "far", "quick", "odd", "broken"]


def test_columns_of_the_table_are_chosen(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.click("#choose summary")
    page.check("#columns input[value=turn_ci_pct]")
    page.uncheck("#columns input[value=head]")
    head = page.locator("#table thead [data-sort]").evaluate_all("(all) => all.map((one) => one.dataset.sort)")
    assert "turn_ci_pct" in head
    assert "head" not in head
    assert "column=backbone" in page.url


def test_csv_has_the_numbers_of_the_records(visit: Visit, small: Path) -> None:
    rows = {row["backbone"]: row for row in downloaded(visit(small, VIEW))}
    assert float(rows["best"]["miou"]) == 31.0
    assert float(rows["best"]["miou_sd"]) == pytest.approx(2**0.5)
    assert rows["best"]["miou_n"] == "2"
    assert float(rows["best"]["turn_ms_low"]) < 20.0 < float(rows["best"]["turn_ms_high"])
    assert rows["odd"]["turn_ms_company"] == "1"
    assert rows["broken"]["turn_ms"] == ""
    assert rows["broken"]["status"] == "oom"


def test_the_command_names_every_choice(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    page.locator("#table .open[aria-label*='best/16']").click()
    words = shlex.split(page.text_content("#command").replace("\\\n", ""))
    assert words[:2] == ["densebench", "run"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--backbone"] == "best"
    assert options["--resolution"] == "128x128"
    assert options["--seed"] == "0,1"
    assert options["--measure"] == "accuracy,complexity,turns"
    assert options["--results"] == "again"


def test_ten_thousand_rows_are_paged_sorted_and_found(visit: Visit, large: Path) -> None:
    page = visit(large, "#x=latency_ms&y=miou&colour=backbone&facet=&sort=-miou")
    drawn(page, 10_000)
    assert page.locator("#table tbody tr").count() == 50
    assert "1\u201350 of 10000" in page.inner_text("#place")
    assert names(page)[0] == "vit_9"
    page.click("#next")
    assert "51\u2013100 of 10000" in page.inner_text("#place")
    page.click("#table [data-sort=latency_ms]")
    assert names(page)[:25] == ["vit_0"] * 25
    page.fill("#find", "vit_3 recipe_07")
    page.wait_for_function("document.querySelector('#place').innerText.includes('of 40')")
    assert set(names(page)) == {"vit_3"}
    assert page.evaluate("document.querySelectorAll('*').length") < 6000


def test_dark_narrow_and_print(visit: Visit, small: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visit(small, VIEW, color_scheme="light")
    dark = visit(small, VIEW, color_scheme="dark")
    brightness = [sum(map(int, re.findall(r"\d+", page.evaluate(ground))[:3])) for page in (light, dark)]
    assert brightness[0] > 600
    assert brightness[1] < 150
    narrow = visit(small, VIEW, viewport={"width": 390, "height": 800})
    assert narrow.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing stands out to the right"
    light.emulate_media(media="print")
    assert not light.locator("#filters").is_visible()
    assert light.locator("#answers").is_visible()


def test_controls_have_names(visit: Visit, small: Path) -> None:
    page = visit(small, VIEW)
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((one) =>
        !(one.getAttribute("aria-label") || one.innerText?.trim() || one.labels?.length)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#table caption").count() == 1
    assert page.locator("#table th[scope=col]").count() == page.locator("#table thead th").count()
    assert page.get_attribute("#chart", "role") == "img"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "table"
