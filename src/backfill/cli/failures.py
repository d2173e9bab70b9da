"""Errors at the command line: one line that says what to do, never a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from backfill.cli.console import emit, say
from backfill.errors import BackfillError

__all__ = ["ALL_ANSWERED", "INTERRUPTED", "SOME_FAILED", "UNUSABLE", "end_on_error"]

ALL_ANSWERED = 0
"""Exit code: every line has its answer."""
SOME_FAILED = 1
"""Exit code: the batch has ended, but not every line has an answer."""
UNUSABLE = 2
"""Exit code: nothing could be done with what was given."""
INTERRUPTED = 130
"""Exit code: the user stopped it."""


@contextmanager
def end_on_error(*, as_json: bool) -> Iterator[None]:
    """Turn every error that Backfill raises on purpose into one line on standard error and exit code 2."""
    try:
        yield
    except BackfillError as error:
        _report(error, as_json=as_json)
    except BaseExceptionGroup as group:
        known, others = group.split(BackfillError)
        if known is None or others is not None:
            raise
        _report(_first_of(known), as_json=as_json)


def _report(error: BackfillError, *, as_json: bool) -> None:
    say(error.message, label="error", style="red")
    if as_json:
        emit({"event": "error", "code": error.code, "message": error.message, "param": error.param})
    raise typer.Exit(UNUSABLE) from None


def _first_of(group: BaseExceptionGroup[BackfillError]) -> BackfillError:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
