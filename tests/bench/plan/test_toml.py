"""TOML that nobody means: whatever a file holds, it is one sentence that names the file, and no traceback."""

import json

import pytest
import torch
from safetensors.torch import save_file

from backbones import checkpoint
from bench import cache
from bench.errors import UserError, at_home
from bench.plan import matrix, models, recipe, toml, weights
from bench.plan.environment import describe

MATRIX = {"backbone": '"vit_pico"', "resolution": "64", "head": '"linear"'}
DEEP = 10_000
STRANGE = (
    *("1", "-1", "0", "1.5", "nan", "inf", "true", '""', '"x"', '"\\u0000"', '"\\n"', '"²"', "1979-05-27", "07:32:00"),
    *("{}", "{a=1}", "[]", "[[]]", "[{}]", "[1,[2]]", '["a",1]', '"/nowhere.toml"', '"~no-such-user/x.toml"', '"."'),
    *('"~no-such-user/x.safetensors"', '"\\u0000.toml"', '":"', '"scenes:"', '"cuda:²"', '"8x²"', '"short+lr=nan"'),
    *('"short+steps=[[["', '"trained:x"', '"package:"', '"pretrained:"', '"timm:"'),
    *("[" * 200 + "]" * 200, "{a=" * 200 + "1" + "}" * 200, "0x" + "f" * 5000, "9" * 5000, "1e400"),
    *(f'"{"a" * 5000}.toml"', f'"{"a" * 5000}.safetensors"', f'"short+steps={"[" * 2000}"'),
    f'"short+steps={"9" * 5000}"',
)


def texts():
    """Documents as a whole."""
    yield "[" * DEEP + "]" * DEEP
    yield "question = " + "[" * DEEP + "]" * DEEP
    yield "question = " + "{a=" * DEEP + "1" + "}" * DEEP
    yield "a." * DEEP + "b = 1"
    yield "[" + ".".join(["a"] * DEEP) + "]"
    yield "question = 'Which?'\ngrid = " + "[" * DEEP + "]" * DEEP
    yield "question = 1"
    yield "question = 'Which?'\ngrid = [1]"
    yield "\x00"


@pytest.mark.parametrize("read", [matrix.load, recipe.check])
def test_a_document_that_nobody_means_is_a_sentence(tmp_path, read):
    path = tmp_path / "mine.toml"
    for text in texts():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"mine\.toml"):
            read(str(path))


def test_what_is_nested_ten_thousand_deep_says_so(tmp_path):
    path = tmp_path / "mine.toml"
    for text in list(texts())[1:5]:
        path.write_text(text)
        with pytest.raises(UserError, match=r"matrix .*mine.toml is no TOML: it is nested too deeply"):
            toml.read(path, "matrix")
    path.write_text("x = 0x" + "f" * 17)
    with pytest.raises(UserError, match=r"is no TOML: it has a whole number of more than 64 bits"):
        toml.read(path, "matrix")


def complaint(ask):
    """What is said of it; "" where nothing is wrong with it."""
    try:
        ask()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("axis", matrix.AXES)
def test_an_axis_of_any_type_is_read_or_refused_in_a_sentence(tmp_path, axis):
    here = describe()
    path = tmp_path / "mine.toml"
    said = []
    for value in STRANGE:
        block = {**MATRIX, axis: value}
        path.write_text("question = 'Which?'\n[[grid]]\n" + "".join(f"{key} = {one}\n" for key, one in block.items()))
        said.append(complaint(lambda: list(matrix.load(str(path)).asks(here))))
    refused = [text for text in said if text]
    assert len(refused) > len(STRANGE) / 2
    assert all("mine.toml" in text and (axis in text or "is no TOML" in text) for text in refused)


@pytest.mark.parametrize("field", recipe.Recipe.model_fields)
def test_a_recipes_field_of_any_type_is_read_or_refused_in_a_sentence(tmp_path, field):
    path = tmp_path / "mine.toml"
    said = []
    for value in STRANGE:
        path.write_text(f"[segmentation]\n{field} = {value}\n")
        said.append(complaint(lambda: recipe.check(str(path))))
    refused = [text for text in said if text]
    assert len(refused) > len(STRANGE) / 2
    assert all("mine.toml" in text and len(text) < 1000 for text in refused)


def test_numbers_of_thousands_of_digits_on_the_command_line_are_refused():
    for axis in ("resolution", "patch", "batch", "seed", "threads", "limit_mib"):
        with pytest.raises(UserError, match=f"--{axis}: .* wanted, .* came") as error:
            matrix.load("smoke").override({axis: ["9" * 5000]})
        assert len(str(error.value)) < 500


def test_metadata_of_weights_nested_too_deeply_is_a_sentence(tmp_path):
    path = tmp_path / "deep.safetensors"
    deep = "[" * 100_000 + "]" * 100_000
    for name, text in ((checkpoint.METADATA, deep), (checkpoint.METADATA, json.dumps({"grid": []}))):
        save_file({"x": torch.zeros(1)}, path, metadata={name: text})
        with pytest.raises(checkpoint.WeightsError, match=r"deep\.safetensors is no whole"):
            checkpoint.read(path)
    save_file({"x": torch.zeros(1)}, path, metadata={models.METADATA: deep})
    with pytest.raises(UserError, match=r"deep\.safetensors cannot be read as a kept model"):
        models.read(path)


def test_a_home_that_nobody_knows_is_a_sentence(monkeypatch):
    with pytest.raises(UserError, match="~no-such-user/x: whose home that is, is not known"):
        at_home("~no-such-user/x")
    with pytest.raises(UserError, match="whose home that is"):
        weights.check("~no-such-user/x.safetensors")

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DENSEBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", nowhere)
    with pytest.raises(UserError, match="this user has no home; name a folder for the cache in DENSEBENCH_CACHE"):
        cache.cache_folder()
