"""Errors at the command line: one line that says what to do, never a stack trace."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import typer

from backfill.errors import BackfillError

__all__ = ["UNUSABLE", "end_on_error"]

UNUSABLE = 2
"""Exit code: nothing could be done with what was given."""


@contextmanager
def end_on_error(*, as_json: bool) -> Iterator[None]:
    """Turn every error that Backfill raises on purpose into one line on standard error and exit code 2."""
    try:
        yield
    except BackfillError as error:
        if as_json:
            facts = {"event": "error", "code": error.code, "message": error.message, "param": error.param}
            sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
        else:
            typer.secho(f"error: {error.message}", err=True, fg=typer.colors.RED)
        raise typer.Exit(UNUSABLE) from None
