"""Names of columns: whether they are there, and which one was meant."""

import difflib
from collections.abc import Collection, Iterable

from backfill.errors import InvalidInput

__all__ = ["check_known", "check_new"]

_LISTED_MAX = 20


def check_known(wanted: Iterable[str], columns: Collection[str], *, table: str, asked_by: str) -> None:
    """Raise InvalidInput, with the nearest name, if the table lacks a column or has several of that name.

    `asked_by` names the option or argument that wants them.
    """
    for name in wanted:
        if name not in columns:
            raise InvalidInput(_name_missing(name, columns, table, asked_by), param=asked_by, code="unknown_column")
        if list(columns).count(name) > 1:
            message = f"{table} has several columns {name!r}, so that {asked_by} cannot tell which one is meant."
            raise InvalidInput(message, param=asked_by, code="ambiguous_column")


def check_new(
    wanted: Iterable[str],
    columns: Collection[str],
    *,
    table: str,
    renamed_by: str = "--columns, --answer-column and --error-column name",
) -> None:
    """Raise InvalidInput if the table has a column already that answers would get.

    `renamed_by` says what calls them otherwise.
    """
    seen = set(columns)
    for name in wanted:
        if name in seen:
            where = (
                f"{table} has a column {name!r} already" if name in columns else f"two new columns are called {name!r}"
            )
            message = f"{where[0].upper()}{where[1:]}; {renamed_by} new ones."
            raise InvalidInput(message, param="columns", code="column_exists")
        seen.add(name)


def _name_missing(name: str, columns: Collection[str], table: str, asked_by: str) -> str:
    by_case = {each.casefold(): each for each in columns}
    near = difflib.get_close_matches(name.strip().casefold(), by_case, n=1, cutoff=0.5)
    message = f"{table} has no column {name!r}, which {asked_by} names"
    if near:
        message += f"; did you mean {by_case[near[0]]!r}?"
    else:
        listed = ", ".join(map(repr, list(columns)[:_LISTED_MAX]))
        more = ", …" if len(columns) > _LISTED_MAX else ""
        message += f"; it has {listed}{more}." if columns else "; it has no columns."
    if any(mark in name for mark in '"\n:'):
        message += " Braces that are part of a prompt's text are written {{ and }}."
    return message
