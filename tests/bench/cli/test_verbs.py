"""The table of verbs and their files say the same, and a verb waits for nothing that it does not need."""

import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from bench import catalogue, cli
from bench.cli import shared, verbs

RUNNER = CliRunner()
SLOW = {"torch", "torchvision", "timm", "pandas", "numpy", "msgspec", "pydantic", "scipy", "PIL", "matplotlib"}
FOLDER = Path(cli.__file__).parent
SHARED = {"__init__", "shared", "verbs"}


def group():
    return typer.main.get_command(cli.app)


@pytest.mark.parametrize("name", verbs.VERBS)
def test_the_table_says_what_the_verb_says(name):
    function = verbs.function(name)
    assert verbs.VERBS[name].says == inspect.getdoc(function)
    assert function.__module__ == f"bench.cli.{verbs.VERBS[name].file}"
    command = group().get_command(None, name)
    assert (command.name, command.help) == (name, inspect.getdoc(function))


def test_every_file_is_a_verbs():
    files = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert files == {verb.file for verb in verbs.VERBS.values()}


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2)], ids=["asked", "nothing"])
def test_help_names_every_verb_with_all_of_its_sentence(words, code):
    done = RUNNER.invoke(cli.app, words)
    assert done.exit_code == code
    assert max(map(len, done.output.splitlines())) <= 80
    text = " ".join(done.output.replace("-\n", "-").split())  # a line may break at a hyphen
    assert all(f"{name} {verb.says}" in text for name, verb in verbs.VERBS.items())
    assert cli.app.info.help in text
    assert "--version print the version and leave" in text
    assert "--help Show this message and exit." in text


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--help"], SLOW | {"rich"}),
        (["list", "backbones"], SLOW | {"rich"}),
        (["list", "recipes"], (SLOW | {"rich"}) - {"pydantic"}),
        (["compare", "--help"], SLOW),
    ],
    ids=["help", "names", "recipes", "help of a verb"],
)
def test_what_needs_little_imports_little(words, unwanted):
    code = f"import sys; from bench.cli import app; app({words}, standalone_mode=False)"
    code += f"; print(sorted({unwanted} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=catalogue.ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("kind", ["backbones", "heads", "data", "measures"])
def test_a_list_is_folded_as_rich_folds_it(monkeypatch, kind, width):
    """rich is what other verbs are shown by."""
    rows = [(name, str(entry.facts.get("patch", "")), entry.doc) for name, entry in catalogue.entries(kind).items()]
    table = Table("name", "patch", "doc", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    monkeypatch.setattr(shared, "_WIDTH", width)
    wanted = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert list(shared.folded(("name", "patch", "doc"), rows)) == wanted


def test_a_narrow_terminal_loses_no_word(monkeypatch):
    monkeypatch.setattr(shared, "_WIDTH", 10)
    lines = list(shared.folded(("name", "doc"), [("a_long_name", "some words that are folded"), ("b", "")]))
    assert lines[1:] == ["a_long_name  some words that are", " " * 13 + "folded", "b"]


def test_names_that_are_not_there_are_an_empty_list():
    assert typed("heads", "nothing") == "\n"
    assert json.loads(typed("heads", "nothing", "--json")) == []


def typed(*words):
    done = RUNNER.invoke(cli.app, ["list", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_words_of_a_plain_verb_are_taken_as_typer_takes_them(monkeypatch):
    spellings = [
        ("heads", "f*", "--json"),
        ("--json", "heads", "f*"),
        ("heads", "--json", "--", "f*"),
        ("heads",),
        ("heads", ""),
        ("--help",),
        ("heads", "--help"),
    ]
    plain = [typed(*words) for words in spellings]
    assert [row["name"] for row in json.loads(plain[0])] == [
        name for name in catalogue.entries("heads") if name.startswith("f")
    ]
    monkeypatch.delattr(verbs.Plain, "parse_args")
    assert plain == [typed(*words) for words in spellings]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument"),
        (["heads", "a", "b"], "unexpected extra argument"),
        (["heads", "--jsn"], "No such option: --jsn"),
        (["heads", "--json=1"], "does not take a value"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_with_a_plain_verb_is_said_as_ever(words, said):
    done = RUNNER.invoke(cli.app, ["list", *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_slip_of_a_verb_says_what_was_meant():
    done = RUNNER.invoke(cli.app, ["lst"])
    assert done.exit_code == 2
    assert "'list'" in done.output
