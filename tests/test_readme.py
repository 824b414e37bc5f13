"""What the README, the findings and the guide show is true."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

from backbones.contract import Unsupported
from bench import build, catalogue

TEXTS = {
    name: (catalogue.ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "results/README.md", "CONTRIBUTING.md")
}
TEXT = TEXTS["README.md"]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", "\n".join(TEXTS.values()), re.DOTALL)
COMMANDS = [
    line.partition(" #")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith("densebench run")
]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--data-root" not in command])
def test_its_commands_plan(command, tmp_path):
    words = shlex.split(command.replace("densebench", f"{sys.executable} -m bench"))
    words += ["--dry-run", "--json", "--results", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=catalogue.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_its_backbone_works_as_it_stands():
    source = next(block for language, block in BLOCKS if language == "python" and "class ResNet" in block)
    space: dict = {}
    exec(compile(source, "README.md", "exec"), space)
    with torch.device("meta"):
        body = space["build"]("resnet50", patch=4, size=(64, 96))
        maps = body(torch.empty(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [(c.channels, 64 // c.stride, 96 // c.stride) for c in body.levels]
    with pytest.raises(Unsupported, match="nearest: 32x64, 64x64"):
        space["build"]("resnet50", patch=4, size=(60, 64))


def test_its_example_of_a_refusal_is_the_real_one():
    shown = re.search(r"Unsupported: (.*?)\n```", TEXT, re.DOTALL)
    assert shown
    with pytest.raises(Unsupported) as error:
        build("vit_tiny", "linear", patch=16, size=(250, 250), classes=21)
    assert str(error.value) == " ".join(shown[1].split())


def test_its_recommendation_is_the_real_one():
    shown = re.search(r"\$ densebench (recommend .*)\n((?:.+\n)+)```", TEXT)
    assert shown
    words = [sys.executable, "-m", "bench", *shlex.split(shown[1])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=catalogue.ROOT, check=True)
    assert done.stdout.startswith(shown[2])


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_its_tables_are_rows_of_the_committed_reports(page):
    """Every table of results is copied from what `densebench report` made."""
    shown = re.findall(r"<!-- from (\S+) -->\n\n(.*?)\n\n", TEXTS[page], re.DOTALL)
    assert shown
    for path, table in shown:
        report = [
            _cells(line) for line in (catalogue.ROOT / path).read_text(encoding="utf-8").splitlines() if "|" in line
        ]
        head, _, *body = (_cells(line) for line in table.splitlines())
        heads = [line for line in report if line[0] in ("rank", "figure")]
        places = [_places(head, line) for line in heads]
        assert any(places), f"{head} is not in {path}"
        for row in body:
            assert any(
                [line[place] for place in found] == row
                for found, full in zip(places, heads, strict=True)
                for line in report
                if found and len(line) == len(full)
            ), f"{row} is not in {path}"


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_its_pictures_and_links_are_there(page):
    targets = re.findall(r"\]\(([^)#]+)\)", TEXTS[page])
    assert targets
    for target in targets:
        assert ((catalogue.ROOT / page).parent / target).exists(), target


def test_the_map_of_rooms_has_every_room():
    names = {path.stem if path.is_file() else path.name for path in (catalogue.ROOT / "bench").iterdir()}
    rooms = names - {"__init__", "__main__", "__pycache__", "conftest", "test_latency"}
    shown = set(re.findall(r"`(\w+)(?:/|\.py)`", TEXTS["CONTRIBUTING.md"]))
    assert rooms <= shown, "each room has a line in CONTRIBUTING.md"


def _places(head, full):
    """Where a report has the columns; what occurs twice, an error bar, follows what it belongs to."""
    found = []
    for before, title in zip(["", *head], head, strict=False):
        if title not in full:
            return None
        found.append(full.index(before) + 1 if full.count(title) > 1 else full.index(title))
    return found if [full[place] for place in found] == head else None


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
