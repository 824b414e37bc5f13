import math
import re
from unittest import mock

import pytest

from bench.errors import UserError
from bench.plan import matrix
from bench.plan.environment import describe

BLOCK = """
question = "Which?"
[[grid]]
backbone = ["vit_pico", "swin_pico"]
resolution = [64, "64x96"]
head = "linear"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def cells(loaded):
    return [cell for cell, _ in loaded.cells(describe())]


def test_axes_multiply_and_blocks_add(write):
    loaded = matrix.load(
        write(BLOCK + '[[grid]]\nbackbone = "vit_pico"\nresolution = 32\nhead = "linear"\nseed = [0, 1]')
    )
    found = cells(loaded)
    assert len(found) == 2 * 2 + 2
    assert {cell.size for cell in found} == {(64, 64), (64, 96), (32, 32)}


def test_no_choice_is_left_open(write):
    here = describe()
    for cell, measures in matrix.load(write(BLOCK)).cells(here):
        assert cell.patch == {"vit_pico": 16, "swin_pico": 4}[cell.backbone]
        assert cell.threads == here.cores
        assert cell.device == ("cuda" if here.gpus else "cpu")
        assert measures == ("accuracy", "complexity", "latency", "memory")


def test_native_names_the_native_patch_size(write):
    found = cells(matrix.load(write(BLOCK)).override({"patch": ["native", "8"]}))
    assert {(cell.backbone, cell.patch) for cell in found} == {
        *(("vit_pico", 16), ("vit_pico", 8), ("swin_pico", 4), ("swin_pico", 8))
    }


def test_an_override_replaces_the_axis_in_every_block(write):
    loaded = matrix.load(write(BLOCK)).override({"resolution": ["32", "48x80"], "patch": ["8"], "seed": ["3"]})
    found = cells(loaded)
    assert {cell.size for cell in found} == {(32, 32), (48, 80)}
    assert {cell.patch for cell in found} == {8}
    assert {cell.seed for cell in found} == {3}
    assert {cell.backbone for cell in found} == {"vit_pico", "swin_pico"}


def test_measure_chooses_among_what_blocks_measure(write):
    text = BLOCK.replace("[[grid]]", '[[grid]]\nmeasure = ["latency", "memory"]')
    text += '[[grid]]\nmeasure = ["accuracy"]\nbackbone = "vit_pico"\nresolution = 32\nhead = "linear"'
    loaded = matrix.load(write(text))
    assert {names for _, names in loaded.override({"measure": ["accuracy"]}).cells(describe())} == {("accuracy",)}
    assert len(cells(loaded.override({"measure": ["accuracy"]}))) == 1
    only = loaded.override({"measure": ["latency", "accuracy"]})
    assert {names for _, names in only.cells(describe())} == {("latency",), ("accuracy",)}
    other = loaded.override({"measure": ["complexity"]})
    assert len(cells(other)) == 5, "no block measures it, so all do"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("backbone =", "backbon ="), r"\[\[grid\]\] 1: unknown key 'backbon': did you mean backbone"),
        (("vit_pico", "vit_pcio"), r"grid\]\] 1, backbone: unknown backbone 'vit_pcio': did you mean vit_pico"),
        (('"linear"', '"linaer"'), r"head: unknown head 'linaer': did you mean linear"),
        (("64,", "0,"), "resolution: a side has 1 to"),
        (("64,", "true,"), "resolution: a resolution like 224 or 384x640"),
        (("64,", '"64*96",'), "resolution: a resolution like 224 or 384x640"),
        (("question", "quesiton"), "unknown key 'quesiton': did you mean question"),
        (("[[grid]]", "[[gird]]"), "unknown key 'gird': did you mean grid"),
        (("[[grid]]", "[[grid]]\npatch = [8, -1]"), "patch: a whole number from 1 to .* -1 came"),
        (("[[grid]]", "[[grid]]\npatch = [8.5]"), "patch: a whole number"),
        (("[[grid]]", "[[grid]]\npatch = [[8]]"), "patch: a whole number"),
        (("[[grid]]", "[[grid]]\nresolution = [[8, 8]]"), "is no TOML|a resolution like"),
        (("[[grid]]", "[[grid]]\ndevice = 'gpu'"), "device: unknown device 'gpu': .*there is: auto, cpu, cuda"),
        (("[[grid]]", "[[grid]]\ndevice = 'cuda:x'"), "device: a device like cuda or cuda:1"),
        (("[[grid]]", "[[grid]]\ndtype = 'fp31'"), "dtype: unknown dtype 'fp31': did you mean fp32"),
        (("[[grid]]", "[[grid]]\nmeasure = ['latecy']"), "unknown measure 'latecy': did you mean latency"),
        (("[[grid]]", "[[grid]]\ndataset = ['senes']"), "unknown data set 'senes': did you mean scenes"),
        (("[[grid]]", "[[grid]]\nrecipe = ['shrt']"), "unknown recipe 'shrt': did you mean short"),
        (("[[grid]]", "[[grid]]\nseed = []"), "seed: the list is empty"),
        (("[[grid]]", "[[grid"), "is no TOML: .*line 3"),
        (('head = "linear"', ""), "key 'head' is missing"),
        (('question = "Which?"', ""), "key 'question' is missing"),
        (("[[grid]]", "[grid]"), r"there is no \[\[grid\]\] block"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(write, change, message):
    path = write(BLOCK.replace(*change, 1))
    with pytest.raises(UserError, match=message) as error:
        matrix.load(path)
    assert "mine.toml" in str(error.value)


def test_an_unknown_matrix_says_which_there_are():
    with pytest.raises(UserError, match="unknown matrix 'defualt': did you mean default"):
        matrix.load("defualt")
    with pytest.raises(UserError, match=r"nowhere.toml cannot be read"):
        matrix.load("nowhere.toml")


@pytest.mark.parametrize("name", matrix.names())
def test_every_matrix_of_the_house_loads_and_asks_a_question(name):
    loaded = matrix.load(name)
    assert re.search(r"\w.*\?", loaded.question, re.DOTALL)
    assert cells(loaded)


def test_too_many_cells_are_counted_and_not_made(write, monkeypatch):
    axes = f"seed = {list(range(5000))}\nbatch = {list(range(1, 2001))}\n"
    loaded = matrix.load(
        write(BLOCK.replace('resolution = [64, "64x96"]', "resolution = 64").replace(', "swin_pico"', "") + axes)
    )
    monkeypatch.setattr(matrix, "Cell", None)
    with pytest.raises(UserError, match=r"mine has 10,000,000 cells, .* up to 100,000; .* --seed, which has 5,000 "):
        next(loaded.asks(describe()))


def test_as_many_cells_as_there_may_be_are_made(write):
    loaded = matrix.load(write(BLOCK + f"seed = {list(range(25))}"))
    assert matrix.MOST_CELLS >= 100
    with mock.patch.object(matrix, "MOST_CELLS", 100):
        assert len(cells(loaded)) == 100
    with mock.patch.object(matrix, "MOST_CELLS", 99), pytest.raises(UserError, match="has 100 cells"):
        cells(loaded)


def test_the_reference_goes_from_what_most_ask_to_what_takes_longest():
    """A run on a rented GPU is cut off at some time: what it has by then are whole answers."""
    found = matrix.load("reference")
    seen = cells(found)
    slow = [place for place, cell in enumerate(seen) if cell.compile == "max-autotune"]
    assert slow == list(range(slow[0], len(seen))), "last"
    compiled = [place for place, cell in enumerate(seen) if cell.compile == "default"]
    assert min(compiled) > max(place for place, cell in enumerate(seen) if cell.compile in ("none", "cudagraph"))
    formats = {cell.memory_format for cell in seen}
    assert formats == {"contiguous", "channels_last"}
    for block in found.blocks:
        axes = (len(values) for axis, values in block.items() if axis != "measure")
        assert math.prod(axes) <= 60
