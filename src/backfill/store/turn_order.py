"""Which batches are next, fair between owners: one of each in turn, and of each the one that goes first.

Every look is answered by an index and reads no row but those that it gives and those that are held: as fast with ten
thousand batches waiting as with ten.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Select, bindparam, or_, select, text, update
from sqlalchemy.engine import Row
from sqlalchemy.sql.selectable import TextualSelect

from backfill.batch import Batch, State
from backfill.store.rows import to_batch
from backfill.store.schema import batches
from backfill.store.slice_claims import ClaimedSlice, Lease, claim_slices

__all__ = ["BATCHES_IN_STATE", "BY_TURN", "LATEST_MS", "Choose", "Claimed", "Wanted", "claim_next", "find_next"]

LATEST_MS = 1 << 62
BY_TURN = (batches.c.deadline_at_ms, batches.c.created_at_ms, batches.c.id)
BATCHES_IN_STATE = (
    select(batches)
    .where(
        batches.c.state == bindparam("in_state"),
        batches.c.deadline_at_ms <= bindparam("due_at"),
        or_(batches.c.holder.is_(None), batches.c.lease_until_ms < bindparam("free_at")),
    )
    .order_by(*BY_TURN)
    .limit(bindparam("most"))
)
# SQLite knows no locks of rows, and leaves this out.
_DUE_UNTAKEN = BATCHES_IN_STATE.with_for_update(skip_locked=True)
_LEASE = (
    update(batches)
    .where(batches.c.id.in_(bindparam("chosen", expanding=True)))
    .values(holder=bindparam("holder"), lease_until_ms=bindparam("lease_until_ms"), epoch=batches.c.epoch + 1)
)

# By their names: a migration that is made under way may add others, and PostgreSQL refuses a prepared statement whose
# result has changed.
_COLUMNS, _HEADS = (", ".join(f"{table}.{column.name}" for column in batches.c) for table in ("batches", "heads"))
# Owner after owner from behind one on, round and round until they repeat; each step is a step down the index.
_IN_ROUND_SQL = """
    WITH RECURSIVE in_round(owner) AS (
        SELECT COALESCE(
            (SELECT owner FROM batches
             WHERE state = :in_state AND owner > :after AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner LIMIT 1),
            (SELECT owner FROM batches
             WHERE state = :in_state AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner LIMIT 1)
        )
        UNION
        SELECT COALESCE(
            (SELECT owner FROM batches
             WHERE state = :in_state AND owner > in_round.owner AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner LIMIT 1),
            (SELECT owner FROM batches
             WHERE state = :in_state AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner LIMIT 1)
        )
        FROM in_round WHERE owner IS NOT NULL
        LIMIT :most
    )
    SELECT {columns} FROM in_round JOIN batches ON batches.id = (
        SELECT id FROM batches
        WHERE state = :in_state AND owner = in_round.owner AND (holder IS NULL OR lease_until_ms < :free_at)
        ORDER BY priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1
    )
"""
_LOCK_SQL = " FOR UPDATE SKIP LOCKED"
# The same for PostgreSQL, which limits no recursion from within, but carries it no further than it is read. What
# another process is about to take is passed over, and what is found is ours until the transaction ends. The whole order
# of the index is named, or another one is taken that has owners in order too, and the rows of all that ever were.
_IN_ROUND_UNTAKEN_SQL = """
    WITH RECURSIVE in_round(owner) AS (
        SELECT COALESCE(
            (SELECT owner FROM batches
             WHERE state = :in_state AND owner > :after AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner, priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1),
            (SELECT owner FROM batches
             WHERE state = :in_state AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner, priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1)
        )
        UNION
        SELECT COALESCE(
            (SELECT owner FROM batches
             WHERE state = :in_state AND owner > in_round.owner AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner, priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1),
            (SELECT owner FROM batches
             WHERE state = :in_state AND (holder IS NULL OR lease_until_ms < :free_at)
             ORDER BY owner, priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1)
        )
        FROM in_round WHERE owner IS NOT NULL
    )
    SELECT {heads}
    FROM (SELECT owner, row_number() OVER () AS place FROM in_round LIMIT :most) AS owners
    CROSS JOIN LATERAL (
        SELECT {columns} FROM batches
        WHERE state = :in_state AND owner = owners.owner AND (holder IS NULL OR lease_until_ms < :free_at)
        ORDER BY priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS heads
    ORDER BY owners.place
"""
_OF_OWNER = (
    select(batches)
    .where(
        batches.c.state == bindparam("in_state"),
        batches.c.owner == bindparam("of_owner"),
        or_(batches.c.holder.is_(None), batches.c.lease_until_ms < bindparam("free_at")),
    )
    .order_by(batches.c.priority.desc(), batches.c.deadline_at_ms, batches.c.created_at_ms, batches.c.id)
    .limit(bindparam("most"))
)


# SQLite knows no locks of rows, and leaves this out.
_OF_OWNER_UNTAKEN = _OF_OWNER.with_for_update(skip_locked=True)
# However many are passed over, it is one value.
_PASSED_OVER = {
    "sqlite": "id NOT IN (SELECT value FROM json_each(:{list}))",
    "postgresql": "id NOT IN (SELECT jsonb_array_elements_text(CAST(:{list} AS jsonb)))",
}


class _Looks(NamedTuple):
    """The statements of one look."""

    due: Select[Any]
    in_round: TextualSelect
    of_owner: Select[Any]


@functools.lru_cache
def _make_looks(dialect: str, *, passes_over: bool, some_not_due: bool, locks: bool) -> _Looks:
    """With `passes_over` none of them gives batches of a list `besides`; with `locks` those that are given are kept.

    With `some_not_due` those of a list `not_due` are not given as due.
    """
    in_round = _IN_ROUND_UNTAKEN_SQL if dialect == "postgresql" else _IN_ROUND_SQL
    due, of_owner = (_DUE_UNTAKEN, _OF_OWNER_UNTAKEN) if locks else (BATCHES_IN_STATE, _OF_OWNER)
    if not locks:
        in_round = in_round.replace(_LOCK_SQL, "")
    if passes_over:
        free = "(holder IS NULL OR lease_until_ms < :free_at)"
        besides = _PASSED_OVER[dialect].replace("{list}", "besides")
        in_round = in_round.replace(free, f"{free} AND {besides}")
        due, of_owner = (look.where(text(f"batches.{besides}")) for look in (due, of_owner))
    if some_not_due:
        due = due.where(text("batches." + _PASSED_OVER[dialect].replace("{list}", "not_due")))
    columns = {column.name: column.type for column in batches.c}
    in_round = in_round.replace("{columns}", _COLUMNS).replace("{heads}", _HEADS)
    return _Looks(due, text(in_round).columns(**columns), of_owner)


class Wanted(NamedTuple):
    """Which batches are looked for: in this state, and nobody holds a turn on them at that time."""

    state: State
    free_at_ms: int
    after: str
    """The owner whose turn it was last."""
    owners: int
    """How many owners are seen."""
    most: int
    """How many of those that are due first."""
    turns: int
    """How many are to be taken: where so many owners are seen, one batch of each will do."""
    besides: tuple[str, ...] = ()
    """Ids of batches that are passed over, so that they hide no others."""
    not_due: tuple[str, ...] = ()
    """Ids of batches that are passed over where those are looked for that are due first."""


class Claimed(NamedTuple):
    """A batch, and what was leased of it: slice 0 is all of it."""

    batch: Batch
    slice: ClaimedSlice


Choose = Callable[[Sequence[Batch], Sequence[Batch]], list[Batch]]
"""Of the batches that are due first, and of those that are next in their owners' round, those to be taken."""


def find_next(connection: Connection, wanted: Wanted, *, locks: bool = False) -> tuple[list[Batch], list[Batch]]:
    """`most` that are due first; and those that are next if the owners take turns, from behind `after` on.

    With `locks`, on PostgreSQL, without those that another transaction is about to take, and kept until this one ends.
    """
    looks, lists = _choose_looks(connection, wanted, locks=locks)
    values = {"in_state": wanted.state, "free_at": wanted.free_at_ms, "due_at": LATEST_MS, "most": wanted.most}
    due_first = connection.execute(looks.due, values | lists).all()
    return [*map(to_batch, due_first)], [*map(to_batch, _find_in_round(connection, wanted, locks=locks))]


def claim_next(connection: Connection, wanted: Wanted, choose: Choose, lease: Lease) -> list[Claimed]:
    """What is chosen of these, leased; of a batch that was cut its next slice, if one is free."""
    chosen = choose(*find_next(connection, wanted, locks=True))
    whole = [batch for batch in chosen if not batch.slices]
    if whole:
        connection.execute(_LEASE, {"chosen": [batch.id for batch in whole]} | lease._asdict())
    # Their rows as they were found tell who had them before.
    claimed = [Claimed(batch, ClaimedSlice(0, batch.epoch + 1, batch.holder is not None)) for batch in whole]
    for batch in chosen:
        if batch.slices:
            taken = claim_slices(connection, batch, lease, wanted.free_at_ms)
            claimed += [Claimed(batch, one) for one in taken]
    return claimed


def _choose_looks(connection: Connection, wanted: Wanted, *, locks: bool) -> tuple[_Looks, dict[str, str]]:
    """The statements, and the lists of what those of them that pass over batches pass over."""
    lists = {"besides": wanted.besides, "not_due": wanted.not_due}
    told = {name: msgspec.json.encode(ids).decode() for name, ids in lists.items() if ids}
    passes_over, some_not_due = "besides" in told, "not_due" in told
    return _make_looks(connection.dialect.name, passes_over=passes_over, some_not_due=some_not_due, locks=locks), told


def _find_in_round(connection: Connection, wanted: Wanted, *, locks: bool) -> Sequence[Row[Any]]:
    """The first batch of each of the owners; if these are fewer than `turns`, more of each, about as many in all."""
    values = {"in_state": wanted.state, "free_at": wanted.free_at_ms, "after": wanted.after, "most": wanted.owners}
    looks, lists = _choose_looks(connection, wanted, locks=locks)
    values |= lists
    heads = connection.execute(looks.in_round, values).all()
    if not heads or len(heads) >= min(wanted.owners, wanted.turns):
        return heads
    each = -(-wanted.turns // len(heads))
    of_owner = [values | {"of_owner": head.owner, "most": each} for head in heads]
    found = [connection.execute(looks.of_owner, each_owner).all() for each_owner in of_owner]
    # One of each before a second of anyone.
    rounds = [[rows[place] for rows in found if place < len(rows)] for place in range(each)]
    return [row for one_round in rounds for row in one_round]
