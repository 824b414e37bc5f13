"""The table of verbs and their files say the same, and a verb waits for nothing that it does not need."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import catalogue, cli
from bench.cli import verbs

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
    ("words", "beyond"),
    [
        (["--help"], {"rich"}),
        (["list", "backbones", "--json"], {"rich"}),
        (["list", "backbones"], set()),
        (["list", "recipes", "--json"], {"torch"}),
    ],
    ids=" ".join,
)
def test_what_needs_little_imports_little(words, beyond):
    unwanted = sorted(beyond if beyond == {"torch"} else SLOW | beyond)
    code = f"import sys; from bench.cli import app; app({words}, standalone_mode=False)"
    code += f"; print(sorted(set({unwanted}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=catalogue.ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


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
