"""`densebench doctor`: this machine, looked at."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.shared import Json, Results, out


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
            out().print(topic, style="bold")
        for finding in findings:
            found.append((topic, finding))
            if not as_json:
                out().print(finding.render(out().width), soft_wrap=True)
    problems = sum(finding.sign == "problem" for _, finding in found)
    if as_json:
        rows = [{"topic": topic, **finding.as_json()} for topic, finding in found]
        print(json.dumps({"ok": not problems, "findings": rows}, indent=1))
    elif problems:
        out().print(f"{problems} problem{'s' if problems > 1 else ''}", style="bold red")
    else:
        out().print("no problem found", style="green")
    if problems:
        raise typer.Exit(1)
