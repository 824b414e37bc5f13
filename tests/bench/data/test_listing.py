"""Names in lists and folders, and the split of a single one."""

# The name of a test says what it shows.

from pathlib import Path

import pytest

from bench.data import _listing as listing
from bench.errors import DataError

NAMES = [f"image_{index}" for index in range(1000)]


def test_about_a_fifth_is_held_out_whatever_the_order() -> None:
    held = listing.held_out(NAMES)
    assert 150 < len(held) < 250
    assert listing.held_out(NAMES[::-1]) == held


def test_a_picture_that_is_added_moves_no_other() -> None:
    assert listing.held_out(NAMES[:500]) == listing.held_out(NAMES) & set(NAMES[:500])


def test_the_split_is_the_same_everywhere() -> None:
    # Worked once with sha256 of "0", a zero byte and the name: a machine that disagrees splits otherwise.
    assert listing.split({name: name for name in NAMES[:8]})["val"] == [
        "image_0",
        "image_5",
        "image_6",
    ]


@pytest.mark.parametrize("count", range(2, 9))
def test_both_sides_get_something(count: int) -> None:
    for start in range(0, 200, count):
        halves = listing.split({name: name for name in NAMES[start : start + count]})
        assert halves["train"]
        assert halves["val"]
        assert sorted(halves["train"] + halves["val"]) == sorted(NAMES[start : start + count])


def test_one_picture_cannot_be_split_nor_the_copies_of_one() -> None:
    for names in (["a"], ["a.rf.1", "a.rf.2", "a.rf.3"]):
        with pytest.raises(DataError, match="cannot be split into train and val; want two or more"):
            listing.held_out(names)


def test_copies_of_one_photograph_stay_together() -> None:
    copies = [f"photo_{source}_jpg.rf.{copy:032x}" for source in range(100) for copy in range(3)]
    held = listing.held_out(copies)
    sources = {name.partition(".rf.")[0] for name in held}
    assert len(held) == 3 * len(sources)


def test_the_rule_says_share_and_seed() -> None:
    assert listing.split_rule("the list default.txt") == (
        "val is 20 % of the list default.txt, by a hash of the names (seed 0)"
    )


def test_names_that_are_no_utf8_are_split_too() -> None:
    assert listing.held_out(["a\udcff", "b\udcfe"])


def test_text_files_of_windows_and_of_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n")
    assert listing.read_text(path).split() == ["one"]
    path.write_bytes("größe".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: cannot be read as UTF-8 text"):
        listing.read_text(path)
    with pytest.raises(DataError, match=r"b\.txt: no such file"):
        listing.read_text(tmp_path / "b.txt")


def test_repeats_and_overlaps_are_counted_and_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lists 1 images more than once \(a\)"):
        listing.no_repeats(tmp_path, ["a", "b", "a"])
    with pytest.raises(DataError, match=r"2 images are in train and in val \(a, b\)"):
        listing.no_overlap(tmp_path, ["a", "b", "c"], ["b", "a", "d"])
