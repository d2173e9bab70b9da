"""Which processes work on the rows, and which schema each knows: each has a lease whose name says so."""

from collections.abc import Mapping

from sqlalchemy import Connection, inspect, not_, select, true

from backfill.store.schema import leases

__all__ = ["find_others", "name_presence"]

_WORD = "process"


def name_presence(holder: str, revision: str) -> str:
    """The name of the lease that a process keeps while it works: until it is over others count on it."""
    return f"{_WORD} {revision} {holder}"


def find_others(connection: Connection, dead: str, now_ms: int) -> Mapping[str, str | None]:
    """Who has a lease at that time -> the revision that his code knows; None if he does not say.

    `dead`: those are left out whose names begin so. With "" nobody is.
    """
    if leases.name not in inspect(connection).get_table_names():
        return {}
    is_other = not_(leases.c.holder.startswith(dead, autoescape=True)) if dead else true()
    rows = connection.execute(select(leases.c.name, leases.c.holder).where(leases.c.lease_until_ms >= now_ms, is_other))
    found: dict[str, str | None] = {}
    for row in rows:
        found.setdefault(row.holder, None)
        word, _, told = row.name.partition(" ")
        revision, _, holder = told.partition(" ")
        if word == _WORD and holder == row.holder:
            found[row.holder] = revision
    return found
