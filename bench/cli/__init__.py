"""The command line: a file a verb, and nothing imported before it is needed."""

import errno
import os
import sys
from pathlib import Path
from typing import TextIO

from bench import signals
from bench.cli.verbs import app
from bench.errors import UserError, printable

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script: a user's mistake is one message and exit code 2.

    A signal that ends it is one sentence and exit code 128 + its number; a reader that goes away (``| head``) is none.
    """
    signals.listen()
    sys.stdout, sys.stderr = _open(sys.stdout), _open(sys.stderr)
    try:
        app()
    except UserError as error:
        _said(f"densebench: {printable(str(error))}", "red")
        sys.exit(2)
    except signals.Ended as ended:
        _said(str(ended), "yellow")
        sys.exit(signals.code(ended.number))
    except OSError as error:
        if error.filename is not None and error.errno in _OF_FILES:
            _said(f"densebench: {printable(str(error.filename))} cannot be read or written ({error.strerror})", "red")
            sys.exit(2)
        if error.filename is not None or error.errno not in _OF_STREAMS:
            raise
        _not_written(error)
    finally:
        _flush()


_OF_STREAMS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What writing to a stream may fail with; of a file, the error would name it."""


_OF_FILES = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE),
    }
)
"""What a disk or its rights are at fault for. A file that is not there is one that the code should have looked for."""


def _open(stream: TextIO | None) -> TextIO:
    """A stream that takes all: a table without its ± is better than none, and a closed one (``>&-``) leads nowhere."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)  # tests and notebooks put others in their place
    if reconfigure is not None:
        reconfigure(errors="replace")
    return stream


def _flush() -> None:
    """Find out now and not in the interpreter's last moments, which has no words for it, that nobody reads any more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _not_written(error)


def _not_written(error: OSError) -> None:
    """What came last cannot be written; where the reader has gone, nobody needs to be told."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is still in the buffer
    if error.errno != errno.EPIPE:
        _said(f"densebench: the output cannot be written ({error.strerror})", "red")
    sys.exit(1)


def _said(text: str, style: str) -> None:
    from bench.cli.shared import err

    err().print(text, style=style, soft_wrap=True, highlight=False)
