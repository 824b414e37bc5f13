"""``docs/results.md``: what stands in the files of results, made from the code that writes them.

``python -m bench.report.schema`` writes the page, ``--check`` says whether it is what the code gives. The texts are
docstrings: of `Record`, `Cell` and `Environment` (``Attributes``), of the measures (``Columns``, ``Samples``).
"""

import ast
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from typing import Any

from bench import catalogue
from bench.errors import UserError
from bench.plan.cell import LATER, Cell
from bench.plan.environment import Environment
from bench.plan.measure import BESIDE, ROUNDS, Measure, measures
from bench.store.record import INPUTS, SETTLED, STATUSES, Record

PAGE = catalogue.ROOT / "docs" / "results.md"

_HEAD = """# Results, field by field

Made by `python -m bench.report.schema` from the code's docstrings; what is edited here is lost.

Everything that densebench has measured lies in `results/<machine>/`. The records are the only source: tables, figures,
`densebench compare` and `bench.load` are made from them, and the same records give the same bytes."""

_FILES = {
    "records.jsonl": "every measurement, one JSON object a line, appended and never changed",
    "environments.jsonl": "the machine and software that records name, likewise",
    "listings.json": "the files that trainings on data on disk saw whose records do not say it, by task and data set",
    "images/DIGEST.npz": "what is kept of every validation image of an accuracy, by which models are compared on the "
    "same images; named by the digest of its bytes",
    "pictures/*.png": "predictions that were drawn",
    "models/DIGEST.safetensors": "kept models (`run --keep-models`), named by the digest of their bytes",
    "segmentation.md, detection.md": "tables for people; `densebench report` makes them, and the following ones",
    "segmentation.csv, detection.csv": "every row and column",
    "learning.md, reach.md": "trained beside untrained models, and how far backbones see, where that was measured",
    "*.png": "cost against accuracy, and the curve of reach (`report --figures`)",
    "records.dropped.gz": "lines that `densebench compact` has dropped, as they were",
    "*.torn": "bytes of a line that a run was cut off in, moved aside by the next one",
}

_SERIES = "SERIES is `latency` or `train_step`; among the samples also a part of a pass (`backbone`, `post`, ...)."

_LINKS = {
    "STATUSES": "[these](#statuses)",
    "INPUTS": "[below](#inputs)",
    "bench.plan.measure.BESIDE": "[below](#beside-the-columns)",
}
"""What docstrings refer to -> where that is on the page."""

_VERSIONS = """A record answers a question: its `measure`, `version`, `fields` and `inputs`. A run measures what no
record of a comparable environment answers. Of two answers to one question the later one counts, but what could not be
measured does not replace a figure, nor a figure in company one that was taken alone.

- **A measure's version** is raised when its numbers change their meaning. Records of another version stay where they
  are, are in no table, and are measured again. A new column needs no new version; older records do not have it.
- **A field that a cell was given later** has, in older records, the value that they were measured with (the defaults
  below).
- **An edited recipe** has another digest, and is measured again. Tables show one state of it: today's, or else the last
  one measured.
- **Other data under the same name** are another question: the record of a training on data on disk says by a digest
  which files it saw (names and sizes of pictures and labels of train and val, and the names of classes). Records from
  before they said it keep counting: the first run that meets the data writes into `listings.json` which files these are
  taken to have seen, those of that day. Tables show one state of the data, the last one measured.
- **An edited backbone or head** is measured again, whatever was measured of it: its *source* is the code of its file
  and of all that this imports, one from the other, out of `backbones/`, `heads/` and the package that it is in;
  comments, docstrings, layout and the catalogue's entries of other names apart. Its digest is an input where it is none
  of those that `bench/plan/sources.json` lets go without saying: the source of when records began to say it, and edits
  that were stated to change no number. Tables show one state of it, likewise, and no row mixes two. What a package such
  as timm does is in the environment; the harness and how weights are fitted are not in the digest.
- **`NAME@1`** in tables is a backbone or head whose *training* has been revised since (a loss, how weights start): what
  was trained before that goes by this name, and is trained again. What the network costs is the same.
- **`NAME@raw`** is a backbone whose levels (raw stages of a residual stream) had no norms yet under a head that gets
  them normed today; costs and accuracies are those of the network without.
- **`NAME@3f2a1c8`** as a recipe is a file of somebody's own, by a part of the digest of what it states."""

_MERGE = """`densebench merge FOLDER` adds somebody else's machine folder (or a whole results folder) to one's own,
`--dry-run` says what it would take. Every line is looked at: it has to be a record as this page describes one, its
environment described with the id that its description gives, its numbers finite, its names free of markup and control
characters; what is kept of images has to give the figures of its record. What is not sound is refused, with file, line
and reason, and costs nothing else; exit code 1 says so. Records of measures, versions or heads that are not here are
taken, and are in no table until they are. What is there stays as it is: records are appended, no picture or image file
is overwritten, and what is there already is not added again. `--machine NAME` names the folder otherwise; kept models
come with `--models` alone. Then `densebench report` makes the tables."""


_COMPACT = """`densebench compact` drops records that count no more: of an earlier version of their measure, and of
several answers to one question all but the one that counts. Tables, claims and what a run finds done stay as they are,
but for the line that counts what is left out. What is dropped goes to `records.dropped.gz`, lines as they were; to have
it back, `gunzip -c records.dropped.gz >> records.jsonl`. `--dry-run` says what it would drop."""


def page() -> str:
    """The page, as Markdown."""
    blocks = [_HEAD, "## Files of a machine", _table(("file", "what it is"), _rows(_FILES))]
    blocks += ["## Records", _fields(Record)]
    settled = ["it stays" if name in SETTLED else "it is tried again by the next run" for name in STATUSES]
    named = [(f"`{name}`", text, after) for (name, text), after in zip(STATUSES.items(), settled, strict=True)]
    blocks += ["### Statuses", _table(("status", "meaning", "afterwards"), named)]
    blocks += ["### Inputs", _table(("input", "meaning"), _rows(INPUTS))]
    blocks += ["### What counts", _VERSIONS]
    blocks += [
        "## Cells",
        "Fields of a record are those of the cell that its measure depends on.",
        _fields(Cell, LATER),
    ]
    blocks += ["## Measures", *(block for measure in _ours() for block in _measure(measure))]
    blocks += [
        "### Beside the columns",
        _SERIES,
    ]
    blocks += [_table(("value", "meaning"), _rows(BESIDE))]
    blocks += ["### Samples of measures that take turns", _table(("samples", "meaning"), _rows(ROUNDS))]
    blocks += ["## Environments", _fields(Environment), "## Adding results", _MERGE, "## Dropping results", _COMPACT]
    return "\n\n".join(blocks) + "\n"


def section(doc: str, title: str) -> dict[str, str]:
    """Name -> text of a section of a docstring; empty where it has none."""
    match = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", cleandoc(doc) + "\n", re.MULTILINE)
    items = re.findall(r"^    (\S[^:]*): (.*(?:\n     .*)*)", match[1], re.MULTILINE) if match else []
    return {name: " ".join(text.split()) for name, text in items}


def columns(measure: Measure) -> dict[str, str]:
    """Column -> what it means, as the measure's docstring says."""
    return section(_doc(measure), "Columns")


def samples(measure: Measure) -> dict[str, str]:
    """Series -> what it is: those of the measure's own docstring."""
    return section(_doc(measure), "Samples")


def _ours() -> Iterable[Measure]:
    """The measures of this repository; those of other packages are not its business."""
    folder = catalogue.ROOT / "bench" / "measures"
    return [one for one in measures().values() if catalogue.get("measures", one.name).source.parent == folder]


def _doc(measure: Measure) -> str:
    tree = ast.parse(catalogue.get("measures", measure.name).source.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "measure"]
    return ast.get_docstring(functions[0]) or ""


def _measure(measure: Measure) -> list[str]:
    """A heading, what it is, and its columns."""
    prose = re.split(r"\n(?=(?:Columns|Samples|Raises):\n)", _doc(measure))[0].strip()
    needs = f" It brings {', '.join(f'`{name}`' for name in measure.needs)} along." if measure.needs else ""
    asked = " Only matrices that name it have it." if measure.asked else ""
    known = dict.fromkeys((one.name for one in measure.columns), "") | columns(measure)
    rows = [
        (f"`{one.name}`", one.unit, one.better or "", one.task or "", known.get(one.name, ""))
        for one in measure.columns
    ]
    blocks = [
        f"### {measure.name}",
        f"{measure.doc}",
        _plain(prose),
        f"Version {measure.version}; depends on {', '.join(f'`{name}`' for name in measure.fields)}.{needs}{asked}",
        _table(("column", "unit", "better", "task", "meaning"), rows),
    ]
    if found := samples(measure):
        blocks.append(_table(("samples", "meaning"), _rows(found)))
    return blocks


def _fields(kind: type[Any], later: Mapping[str, object] | None = None) -> str:
    """A table of a dataclass's fields."""
    said = section(kind.__doc__ or "", "Attributes")
    rows = []
    for one in fields(kind):
        text = said.get(one.name, "")
        for code, here in _LINKS.items():
            text = text.replace(f"`{code}`", here)
        if later is not None and one.name in later:
            text += f" In records from before it existed: {later[one.name]}."
        rows.append((f"`{one.name}`", _type(one.type), text))
    return _table(("field", "type", "meaning"), rows)


def _type(kind: Any) -> str:
    """What a type is called in JSON."""
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    words = {"str": "text", "int": "whole number", "float": "number"}
    if "Mapping" in text or text.startswith("dict"):
        return "object"
    if text.startswith("list"):
        return f"list of {words[text[5:-1]]}s"
    return words[text]


def _rows(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(", ".join(f"`{one}`" for one in name.split(", ")), text) for name, text in texts.items()]


def _plain(text: str) -> str:
    """A docstring's text as Markdown: its double backticks are single ones there."""
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell).replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str], path: Path = PAGE) -> int:
    """Write the page, or say whether it is what the code gives."""
    text = page()
    if "--check" in arguments:
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        sys.stdout.write("" if same else f"{path} is not what the code gives; run `python -m bench.report.schema`\n")
        return 0 if same else 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); run it in a checkout of densebench") from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
