import sys

import pytest

from bench import catalogue
from bench.errors import UserError


def read(tmp_path, text):
    path = tmp_path / "plug.py"
    path.write_text(text)
    return catalogue.read("plug", path)


def test_a_literal_is_read_without_importing(tmp_path):
    text = '"""A thing.\n\nMore."""\nimport nowhere\nCATALOGUE = {"a": {"x": [1, 2]}, "b": {"doc": "own"}}\n'
    one, other = read(tmp_path, text)
    assert (one.name, one.facts, one.doc) == ("a", {"x": [1, 2]}, "A thing.")
    assert other.doc == "own"
    with pytest.raises(UserError, match=r"plug.py \(for 'a'\) cannot be imported"):
        one.load()


def test_a_file_without_catalogue_states_nothing(tmp_path):
    assert read(tmp_path, "x = 1\n") == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Which one,\nof these?\n", "Which one, of these?"),
        ("\nWhich one? The last one.", "Which one?"),
        ("Sized for real.toml. Then more.", "Sized for real.toml."),
        ("Which family, e.g. ViT or Swin? More.", "Which family, e.g. ViT or Swin?"),
        ("no end here", "no end here"),
        ("", ""),
    ],
)
def test_a_first_sentence_is_whole(text, first):
    assert catalogue.first_sentence(text) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (:\n", "plug.py is broken"),
        ("\nCATALOGUE = dict(a=1)\n", "line 2: CATALOGUE must be a literal"),
        ("CATALOGUE = {[]: 1}\n", "line 1: CATALOGUE must be a literal"),
        ("CATALOGUE = ['a']\n", "must be a dict of name -> dict"),
        ("CATALOGUE = {'a': 1}\n", "must be a dict of name -> dict"),
    ],
)
def test_a_broken_plug_in_is_a_loud_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_one_new_file_adds_one_name(tmp_path, monkeypatch):
    """A package of someone else joins through an entry point, and a second claim to a name is refused."""
    (tmp_path / "their_heads.py").write_text('"""Theirs."""\nCATALOGUE = {"their_head": {"task": "segmentation"}}\n')
    monkeypatch.syspath_prepend(str(tmp_path))

    class Point:
        name = "theirs"
        value = "their_heads"

    monkeypatch.setattr(
        catalogue.importlib.metadata, "entry_points", lambda group: [Point()] if "heads" in group else []
    )
    catalogue._read_all.cache_clear()
    try:
        assert catalogue.get("heads", "their_head").module == "their_heads"
        assert "their_heads" not in sys.modules
        (tmp_path / "their_heads.py").write_text('CATALOGUE = {"their_head": {}}\n')
        catalogue._read_all.cache_clear()
        with pytest.raises(UserError, match="head 'their_head' does not state its task"):
            catalogue.entries("heads")
        (tmp_path / "their_heads.py").write_text('CATALOGUE = {"linear": {"task": "segmentation"}}\n')
        catalogue._read_all.cache_clear()
        with pytest.raises(UserError, match="both define head 'linear'"):
            catalogue.entries("heads")
    finally:
        catalogue._read_all.cache_clear()


def test_an_unknown_name_says_what_was_meant():
    with pytest.raises(UserError, match="unknown backbone 'swim_tiny': did you mean swin_tiny"):
        catalogue.get("backbones", "swim_tiny")
