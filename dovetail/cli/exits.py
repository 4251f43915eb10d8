"""From errors to exit codes and sentences: the one place that knows."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from dovetail.errors import (
    ConflictError,
    DigestMismatch,
    DovetailError,
    GateRefused,
    IncompatibleBaseModel,
    InvalidInput,
    MissingDependency,
    NotFoundError,
    StorageError,
)

UNEXPECTED = 1
SOME_ROWS_FAILED = 10
NOT_NOTIFIED = 11
INTERRUPTED = 130
_LONGEST = 500

EXIT_CODES: tuple[tuple[type[DovetailError], int, str], ...] = (
    (NotFoundError, 3, "not found"),
    (ConflictError, 4, "conflict with what is there, or with a concurrent change"),
    (InvalidInput, 5, "invalid input"),
    (IncompatibleBaseModel, 6, "incompatible base model"),
    (GateRefused, 7, "refused by a gate"),
    (DigestMismatch, 8, "corrupt data"),
    (StorageError, 9, "storage unavailable"),
    (MissingDependency, 1, "an optional library is not installed"),
)

MEANINGS: dict[int, str] = {
    0: "done",
    1: "unexpected error",
    2: "wrong usage",
    **{code: meaning for _, code, meaning in EXIT_CODES if code > UNEXPECTED},
    SOME_ROWS_FAILED: "done, but some rows have errors",
    NOT_NOTIFIED: "done, but not everybody could be notified",
    INTERRUPTED: "interrupted",
}


def exit_code(error: DovetailError) -> int:
    """Return the exit code for an error."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), UNEXPECTED)


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return the exit code; messages go to stderr."""
    from dovetail.cli.app import app

    given = sys.argv[1:] if arguments is None else list(arguments)
    shows_traceback = "--traceback" in given
    try:
        result = app.main(given, prog_name="dovetail", standalone_mode=False)
    except click.exceptions.Abort:
        return _say("interrupted", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DovetailError as error:
        if shows_traceback:
            traceback.print_exc()
        return _say(f"error: {error}", exit_code(error))
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # noqa: BLE001 (the last place before the person at the terminal)
        if shows_traceback:
            traceback.print_exc()
        what = f"unexpected error, {type(error).__name__}: {error}"
        return _say(f"{what[:_LONGEST]}; run again with --traceback to see where", UNEXPECTED)
    return result if isinstance(result, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(message, err=True)
    return code


def _reader_left() -> int:
    """Leave quietly when the reader of our output is gone, as in ``dovetail list | head``."""
    # Python would flush stdout once more on the way out, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
