"""What a record says of the source of its model: which edits it follows, and which it does not."""

import json
from pathlib import Path

import pytest

from bench import catalogue
from bench.catalogue import Entry
from bench.errors import UserError
from bench.plan import source

MINE = '''"""A backbone."""
import math
from pkg.parts import blocks
from .. import shared

CATALOGUE = {"mine": {"patch": 4, "timm": "arch"}, "other": {"patch": 8}}


class Net:
    """Doc."""

    width = 3  # wide

    def forward(self, x):
        """Doc."""
        return blocks.one(x) + self.width
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of somebody's, with a backbone that imports two of its modules, one of which imports a third."""
    texts = {
        "nets/mine.py": MINE,
        "nets/__init__.py": "",
        "nets/beside.py": "x = 1\n",
        "parts/blocks.py": "from pkg.parts.deep import two\none = two\n",
        "parts/deep/__init__.py": "from ..deeper import three as two\n",
        "parts/deeper.py": "def three(x):\n    return x\n",
        "shared.py": "y = 2\n",
        "__init__.py": "",
    }
    for name, text in texts.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def entry(package: Path, name: str = "mine") -> Entry:
    path = package / "nets" / "mine.py"
    return next(one for one in catalogue.read("pkg.nets.mine", path) if one.name == name)


def test_what_is_imported_counts_from_one_to_the_other(package: Path) -> None:
    assert {name: path.relative_to(package).as_posix() for name, path in source.files(entry(package)).items()} == {
        "pkg.nets.mine": "nets/mine.py",
        "pkg": "__init__.py",
        "pkg.parts.blocks": "parts/blocks.py",
        "pkg.parts.deep": "parts/deep/__init__.py",
        "pkg.parts.deeper": "parts/deeper.py",
        "pkg.shared": "shared.py",
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("nets/mine.py", "# wide", "# a comment more", False),
        ("nets/mine.py", '"""Doc."""\n\n    width', '"""Another text."""\n\n\n    width', False),
        ("nets/mine.py", '        """Doc."""\n', "", False),
        (
            "nets/mine.py",
            "return blocks.one(x) + self.width",
            "return (blocks.one(x)\n    + self.width)",
            False,
        ),
        ("nets/mine.py", "    width = 3", '    width = 3\n    """What it means."""', False),
        ("nets/mine.py", '"other": {"patch": 8}', '"other": {"patch": 16}, "third": {"patch": 2}', False),
        ("nets/mine.py", '"patch": 4, "timm"', '"patch": 8, "doc": "words", "training_revision": 2, "timm"', False),
        ("nets/mine.py", '"timm": "arch"', '"timm": "another"', True),
        ("nets/mine.py", "width = 3", "width = 4", True),
        ("nets/mine.py", "width = 3", "width = 3.0", True),
        ("nets/mine.py", "import math", "import math as m", True),
        ("parts/blocks.py", "one = two", "one = [two]", True),
        ("parts/deeper.py", "return x", "return -x", True),
        ("shared.py", "y = 2", "y = 3", True),
        ("nets/beside.py", "x = 1", "x = 2", False),
    ],
)
def test_an_edit_counts_where_it_changes_code_that_makes_the_model(
    package: Path, file: str, old: str, new: str, counts: bool
) -> None:
    before, path = source.digest(entry(package)), package / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    source._module.cache_clear()  # a clock may be too coarse to tell two writes apart
    assert (source.digest(entry(package)) != before) == counts
    path.write_text(text)
    source._module.cache_clear()
    assert source.digest(entry(package)) == before


def test_a_file_is_read_again_when_it_was_written(package: Path) -> None:
    before, path = source.digest(entry(package)), package / "shared.py"
    path.write_text("y = 22\n")
    assert source.digest(entry(package)) != before


def test_a_module_without_a_package_is_its_own_file_and_a_broken_or_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "single.py"
    path.write_text('import json, torch\nfrom backbones import contract\nCATALOGUE = {"x": {"patch": 1}}\n')
    (one,) = catalogue.read("single", path)
    assert set(source.files(one)) == {"single", "backbones", "backbones.contract"}
    path.write_text("def (")
    with pytest.raises(UserError, match=r"plug-in .*single\.py is broken"):
        source.digest(one)
    path.unlink()
    with pytest.raises(UserError, match=r"single\.py cannot be read"):
        source.digest(one)


def test_code_has_one_digest_whatever_the_version_of_python(tmp_path: Path) -> None:
    """The digests in the table were reckoned by one of them and hold for all."""
    path = tmp_path / "single.py"
    path.write_text(
        'CATALOGUE = {"x": {}}\nx: int = 3\nlonger = f"{x!r:>{x}} and {x=}" u"é"\n'
        "@staticmethod\nasync def f(a, /, b: int = 1, *c, d=..., **e) -> None: pass\n"
        "class A(object, metaclass=type): pass\n"
        "match x:\n    case [1, *rest] if rest: y = 1_000\n    case {'k': None}: y = 1e3j\n    case _: pass\n"
        "with open(x) as f, g: z = (w := lambda *a: (yield))\n"
        "try: del x[1:2, ...]\nexcept* ValueError: raise\n"
    )
    assert source._module(path, 0, 0).digest == "05f8d45798c9"


def test_the_sources_of_the_house_have_their_contract_and_what_they_build_on() -> None:
    found = {name: set(source.files(catalogue.get(*name))) for name in (("backbones", "deit_pico"), ("heads", "fcos"))}
    assert {"backbones.deit", "backbones.vit", "backbones.contract"} <= found["backbones", "deit_pico"]
    assert {"heads.fcos", "heads.contract", "heads.pyramid", "backbones.contract"} <= found["heads", "fcos"]
    assert not any(name.startswith("heads") for name in found["backbones", "deit_pico"])
    (space,) = catalogue.namespaces("backbones").values()
    assert source.digest(space) == source.digest(catalogue.get("backbones", "timm:vit_tiny_patch16_224"))


def test_every_entry_of_the_house_was_stated_when_records_began_to_say_it() -> None:
    table = json.loads(source.TABLE.read_text())
    for kind in ("backbones", "heads"):
        for name, said in table[kind].items():
            assert "" in said.values(), f"{kind} {name}: what records that say nothing were made by"


def test_what_is_in_the_table_goes_without_saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = source.digest(catalogue.get("heads", "linear"))
    table = tmp_path / "sources.json"
    monkeypatch.setattr(source, "TABLE", table)
    for said, expected in (({own: ""}, ""), ({own: "d0"}, "d0"), ({"d0": ""}, own), ({}, own)):
        table.write_text(json.dumps({"heads": {"linear": said}}))
        source._table.cache_clear()
        assert source.stated("heads", "linear") == expected
    assert source.said({"head": "linear", "patch": 3}) == {"head source": own}
    assert source.said({"head": "gone"}) == source.said({"patch": 3}) == {}
    source._table.cache_clear()


def test_an_edit_that_changes_no_number_is_stated(tmp_path: Path) -> None:
    table = tmp_path / "sources.json"
    own = source.digest(catalogue.get("heads", "linear"))
    assert source.same(["linear"], path=table) == ["linear"]
    assert json.loads(table.read_text()) == {"heads": {"linear": {own: ""}}}
    source._table.cache_clear()
    assert source.same(["linear"], path=table) == []
    assert source.same(["linear"], "d0", path=table) == ["linear"]
    assert json.loads(table.read_text()) == {"heads": {"linear": {own: "d0"}}}
    source._table.cache_clear()
    assert {"linear", "vit_pico", "timm:"} <= set(source.same(["all"], path=table))
    with pytest.raises(UserError, match="unknown backbone or head 'liner': did you mean linear"):
        source.same(["liner"], path=table)
    source._table.cache_clear()


def test_the_list_says_what_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert source.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"heads linear: {source.stated('heads', 'linear') or 'as at first'}" in lines
    assert source.main(["--same", "nothing of the kind"]) == 2
    assert "unknown backbone or head" in capsys.readouterr().err
