"""`densebench run`: a plan, what of it is measured, and how it ends."""

import json
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import signals
from bench.cli.shared import Csv, Results, Wide, axis, err, one_of, out, say, split
from bench.errors import UserError, printable

LARGE_MIB = 300
"""Size of a machine's records from which making tables of them all would take longer than many a run."""
LEFT_OUT = 6
"""Combinations that a run names of those that it left out."""


def run(
    matrix: Annotated[str, typer.Option(help="name of a matrix, or a .toml file")] = "default",
    backbone: Annotated[list[str] | None, axis("backbones instead of the matrix's")] = None,
    head: Annotated[list[str] | None, axis("heads")] = None,
    patch: Annotated[list[str] | None, axis("patch sizes in pixels, or native")] = None,
    resolution: Annotated[list[str] | None, axis("input sizes, 224 or 384x640 (height x width)")] = None,
    dataset: Annotated[list[str] | None, axis("data sets")] = None,
    dtype: Annotated[list[str] | None, axis("fp32, tf32, bf16 or fp16")] = None,
    batch: Annotated[list[str] | None, axis("images a forward pass, for latency and memory")] = None,
    measure: Annotated[list[str] | None, axis("only these of the matrix's measures")] = None,
    device: Annotated[list[str] | None, axis("cpu, cuda, ...")] = None,
    seed: Annotated[list[str] | None, axis("seeds of training")] = None,
    recipe: Annotated[list[str] | None, axis("training recipes: names, or .toml files")] = None,
    threads: Annotated[list[str] | None, axis("CPU threads for latency and memory; 0: all cores")] = None,
    attention: Annotated[list[str] | None, axis("auto, fused or unfused")] = None,
    compile_: Annotated[list[str] | None, axis("none, default, max-autotune or cudagraph", "--compile")] = None,
    weights: Annotated[
        list[str] | None, axis("random, pretrained, pretrained:TAG, package:NAME, trained:DIGEST, or files")
    ] = None,
    window: Annotated[list[str] | None, axis("of windowed attention: keep it in tokens, or scale it")] = None,
    resample: Annotated[list[str] | None, axis("of pretrained patch kernels: pinv or bicubic")] = None,
    padding: Annotated[list[str] | None, axis("of sizes that a backbone cannot take: refuse, or pad")] = None,
    memory_format: Annotated[list[str] | None, axis("contiguous or channels_last")] = None,
    runtime: Annotated[list[str] | None, axis("torch, onnxruntime, openvino, aoti or tensorrt")] = None,
    quantise: Annotated[list[str] | None, axis("none, int8-static, int8-dynamic or int8-weights")] = None,
    limit_mib: Annotated[list[str] | None, axis("memory in MiB for max_batch; 0: what the device has")] = None,
    data_root: Annotated[
        list[str] | None,
        typer.Option(help="folder of a data set, or of several; or NAME=FOLDER; may be repeated", show_default=False),
    ] = None,
    results: Results = Path("results"),
    machine: Annotated[
        str | None,
        typer.Option(
            help="name of this machine's folder in the results; default: made from its GPU or CPU. Of a cluster's "
            "kinds of machines: the one to measure"
        ),
    ] = None,
    launcher: Annotated[str, typer.Option(help="where cells run: local, or ray (the nodes of a cluster)")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="of the cluster, HOST:PORT; default: RAY_ADDRESS, or the one that this machine is in"),
    ] = None,
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
    from bench.cache import cache_folder
    from bench.launchers.contract import Settings
    from bench.plan import matrix as matrices
    from bench.plan.dataset import Roots
    from bench.plan.measure import Precision
    from bench.store.store import Store

    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run; the records themselves are JSON lines under results/")
    if alone and allow_company:
        raise UserError("--alone refuses company and --allow-company does not wait for it to leave: take one of them")
    one_of(json=as_json, csv=as_csv, wide=wide)
    if dry_run and (as_csv or wide):
        raise UserError(f"--{'csv' if as_csv else 'wide'} is of what was measured, and --dry-run measures nothing")
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
        "runtime": runtime,
        "quantise": quantise,
        "limit_mib": limit_mib,
    }
    given = {axis: split(values) for axis, values in axes.items() if values is not None}
    if empty := [axis for axis, values in given.items() if not values]:
        raise UserError(f"--{empty[0]} was given without a value")
    question = matrices.load(matrix).override(given)
    roots = Roots(data_root or [])
    if data_root and dataset is None and question.embedded:
        name, tasks = roots.recognised()
        question = question.on(name, tasks)
        say(f"{' '.join(data_root)} is read as {name}, as --dataset names none")
    asked: dict[str, bool] = {
        "retry": retry,
        "alone": alone,
        "skip_broken": skip_broken,
        "force": force,
        "keep_models": keep_models,
    }
    settings = Settings(
        cache_folder(),
        results,  # what is written lies in the machine's folder in it
        timeout,
        group,
        Precision(target, budget, "refuse" if alone else "allow" if allow_company else "avoid"),
        address=address or "",
    )
    here = partial(_here, question.devices, dry_run=dry_run)
    kinds, name = _machines(launcher, address, machine, here, one=as_csv or as_json)
    code = 0
    for kind in kinds:
        store = Store(running.machine_folder(results, name, kind.environment))
        if dry_run:
            _dry_run(_plan(question, kind.environment, store, roots, **asked), as_json=as_json)
            continue
        _mend(store)
        plan = replace(_plan(question, kind.environment, store, roots, **asked), nodes=max(1, len(kind.nodes)))
        shown = err() if as_csv else out()  # rows alone, for a pipe
        _announce(question, plan, store.folder, kind, shown)
        summary = _measure(plan, store, settings, launcher, shown, keep_models=keep_models)
        ended = _after(store.folder, summary, measured=bool(plan.todo), strict=strict, wide=wide, as_csv=as_csv)
        code = max(code, ended)
        if summary.interrupted:
            break
    if code:
        raise typer.Exit(code)


def _machines(
    launcher: str, address: str | None, name: str | None, here: Callable[[], Any], *, one: bool
) -> tuple[list[Any], str | None]:
    """The kinds of machines that a launcher measures on, and the name of their folder where that is not made from them.

    Args:
        launcher: its name.
        address: of a cluster.
        name: of the machine's folder; where there are several kinds, of the one that is wanted.
        here: the environment of this machine, for a launcher that measures on it.
        one: only one can be shown.

    Raises:
        UserError: no such launcher, cluster, kind or device, or one is to be chosen.
    """
    from bench import catalogue
    from bench.launchers.contract import Machine

    entry = catalogue.get("launchers", launcher)
    if not entry.facts.get("machines"):
        if address is not None:
            raise UserError(f"--address is of a cluster, and --launcher {launcher} measures on this machine")
        return [Machine(here())], name
    with err().status("asking the nodes of the cluster who they are"):
        kinds: list[Machine] = entry.load().machines(address or "")
    if len(kinds) == 1:
        return kinds, name
    listed = "; ".join(f"{kind.environment.slug()} ({', '.join(kind.nodes)})" for kind in kinds)
    chosen = [kind for kind in kinds if name in (None, kind.environment.slug())]
    if not chosen:
        raise UserError(f"--machine {name}: the cluster has no such kind of machines, but {listed}")
    if one and len(chosen) > 1:
        raise UserError(f"--csv and --json are of one machine; choose it with --machine: {listed}")
    if len(chosen) > 1:
        say(f"the cluster has {len(kinds)} kinds of machines, measured one after the other: {listed}")
    return chosen, None


def _mend(store: Any) -> None:
    """Mend a torn store before it is read, and find an unwritable folder at once."""
    with store.writing() as writer:
        for note in writer.repaired:
            say(note)


def _announce(question: Any, plan: Any, folder: Path, kind: Any, shown: Any) -> None:
    """What is asked, how much of it is to be made, and where."""
    from bench.plan.environment import busy
    from bench.run import duration, seconds_left

    todo = len(plan.todo)
    shown.print(question.question.strip().replace("\n", " "), style="italic")
    shown.print(
        f"{plan.cells} cells, {len(plan.planned)} measurements: {len(plan.planned) - todo} in {folder}, {todo} to make"
        + (f", {duration(seconds_left(plan, (), {}))}" if todo else ""),
        soft_wrap=True,
    )
    if kind.nodes:
        nodes = f"{len(kind.nodes)} nodes" if len(kind.nodes) > 1 else "1 node"
        shown.print(f"on {nodes}: {', '.join(kind.nodes)} ({kind.environment.title()})", soft_wrap=True)
    elif any(planned.job.measure.exclusive for planned in plan.todo) and (cores := busy()) is not None and cores > 0.5:
        of = plan.environment.cores
        say(f"other processes keep {cores:.1f} of {of} cores busy: what is timed now will be too slow")
    for dataset, note in plan.notes.items():
        say(f"{dataset}: {note}")


def _measure(plan: Any, store: Any, settings: Any, launcher: str, shown: Any, *, keep_models: bool) -> Any:
    """Measure what a plan wants, with a display of how far it is."""
    from bench import run as running
    from bench.display import Display
    from bench.plan import models
    from bench.store import images, pictures

    folder = store.folder
    written = replace(
        settings,
        pictures=folder / pictures.FOLDER,
        images=folder / images.FOLDER,
        models=folder / models.FOLDER if keep_models else None,
    )
    with Display(plan, shown, folder) as display:
        return running.run(
            plan,
            store,
            written,
            launcher=launcher,
            show=display.show,
            say=say,
            look=display.look,
            files=display.files,
        )


def _here(devices: Collection[str], *, dry_run: bool) -> Any:
    """This machine; torch is asked for the devices before anything is planned."""
    from bench.devices import require
    from bench.plan import cards
    from bench.plan.environment import describe

    box = cards.look()
    if note := box.says():
        say(note)
    try:
        require(devices, box)
    except UserError as error:
        if not dry_run:
            raise
        say(str(error))
    return describe(box)


def _plan(*asked: Any, **options: bool) -> Any:
    """The plan of a run; a look at all files takes a while."""
    from bench.run import plan

    with err().status("planning"):
        return plan(*asked, **options)


def _after(folder: Path, summary: Any, *, measured: bool, strict: bool, wide: bool, as_csv: bool) -> int:
    """Tables and pictures of what there is now, and what there is to say of the run; its exit code."""
    from bench.display import missing
    from bench.report import tables as made

    reading, tables = _tables(folder, summary)
    if as_csv:
        print(made.as_csv(reading.tables) if reading.tables else "", end="")
    else:
        for table in reading.tables:
            out().print(made.summary_table(table, wide=wide), soft_wrap=True)
    shown = err() if as_csv else out()
    shown.print(f"records: {folder / 'records.jsonl'}", soft_wrap=True)
    if tables:
        shown.print(f"tables:  {', '.join(map(str, tables))} (and .csv)", soft_wrap=True)
    # Who sends SIGTERM or SIGHUP does not wait long, and pictures take some seconds.
    if pictures := _pictures(folder, measured=measured and bool(tables) and summary.interrupted in (0, signal.SIGINT)):
        shown.print(f"picture: {', '.join(map(str, pictures))}", soft_wrap=True)
    for status, text in missing(summary.missing_numbers):
        err().print(text, style="yellow" if status == "unsupported" else "red", soft_wrap=True)
    if summary.left_out:
        say(_left_out(summary.left_out, summary.why_left_out))
    if summary.company:
        say(
            f"{summary.company} of {len(summary.records)} measurements were taken while other processes used the "
            "machine (≈ in tables; nothing is claimed of them): quieten it, then take them again with --retry"
        )
    if summary.interrupted:
        err().print(
            f"{signals.in_words(summary.interrupted)}: {len(summary.records)} measurements are kept, "
            f"{summary.missing} are missing; the same command goes on where it stopped",
            style="yellow",
            soft_wrap=True,
        )
        return signals.code(summary.interrupted)
    wanted = summary.missing_numbers if strict else summary.failed
    if wanted:
        err().print(f"{len(wanted)} of {len(summary.records)} measurements have no number", style="red")
        return 1
    return 0


def _tables(folder: Path, summary: Any) -> tuple[Any, list[Path]]:
    """What is shown at the end, and the files of tables that were made: of this machine's folder alone.

    What lies wrong in another one is no business of this run.
    """
    from bench.report import tables as made
    from bench.report.rows import gather, read
    from bench.store.store import Store

    store = Store(folder)
    if store.path.stat().st_size > LARGE_MIB * 2**20:
        say(
            f"{store.path} is larger than {LARGE_MIB} MiB: shown is what was asked for now, and files of tables are "
            f"left as they are; `densebench report --results {folder}` makes them of all records"
        )
        return gather(folder, summary.records.values(), store.environments()), []
    reading = read(folder)
    done = made.write(reading)
    return reading, [path for path in sorted(done.written + done.unchanged) if path.suffix == ".md"]


def _pictures(folder: Path, *, measured: bool) -> list[Path]:
    """The main picture of each task, drawn where something new was measured; what cannot be drawn is said, no more."""
    if not measured:
        return sorted(path for path in folder.glob("*.png") if path.stem in {"segmentation", "detection", "reach"})
    from bench.report.figure import figures

    try:
        return figures(folder)
    except UserError as error:
        say(str(error))
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
    from rich.table import Table
    from rich.text import Text

    table = Table("cell", "measures to make", "measured already", title=f"{plan.cells} cells", title_justify="left")
    lines: dict[str, tuple[list[str], list[str]]] = {}
    for planned in plan.planned:
        todo, done = lines.setdefault(planned.job.cell_title(), ([], []))
        name = planned.job.measure.name + (f" (cannot: {planned.refused})" if planned.refused else "")
        (todo if planned.done is None else done).append(name)
    for title, (todo, done) in sorted(lines.items()):
        table.add_row(Text(printable(title)), Text(printable(", ".join(todo))), Text(", ".join(done)))
    out().print(table)
    out().print(f"{len(plan.planned)} measurements, {len(plan.todo)} to make", soft_wrap=True)
