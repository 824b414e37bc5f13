"""The command line: a file a verb, and nothing imported before it is needed."""

import sys

from bench.cli.verbs import app
from bench.errors import UserError, printable

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script: a user's mistake is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        from bench.cli.shared import err

        err().print(f"densebench: {printable(str(error))}", style="red", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        from bench.cli.shared import err

        err().print("interrupted", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
