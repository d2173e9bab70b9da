"""Which batches are next, fair between owners: one of each in turn, and of each the one that goes first.

Every look is answered by an index and reads no row but those that it gives and those that are held: as fast with ten
thousand batches waiting as with ten.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, text
from sqlalchemy.engine import Row

from backfill.batch import State
from backfill.store.schema import batches

__all__ = ["find_in_round"]

# Owner after owner from behind one on, round and round until they repeat; each step is a step down the index.
_IN_ROUND = text("""
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
    SELECT batches.* FROM in_round JOIN batches ON batches.id = (
        SELECT id FROM batches
        WHERE state = :in_state AND owner = in_round.owner AND (holder IS NULL OR lease_until_ms < :free_at)
        ORDER BY priority DESC, deadline_at_ms, created_at_ms, id LIMIT 1
    )
""").columns(**{column.name: column.type for column in batches.c})
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


def find_in_round(
    connection: Connection, state: State, *, free_at_ms: int, after: str, owners: int, most: int
) -> Sequence[Row[Any]]:
    """Batches in the state on which nobody holds a turn at that time, from behind the owner `after` on.

    The first one of each of `owners` owners; if these are fewer than `most`, more of each, about as many in all.
    """
    values = {"in_state": state, "free_at": free_at_ms, "after": after, "most": owners}
    heads = connection.execute(_IN_ROUND, values).all()
    if not heads or len(heads) >= min(owners, most):
        return heads
    each = -(-most // len(heads))
    found = [connection.execute(_OF_OWNER, values | {"of_owner": head.owner, "most": each}).all() for head in heads]
    # One of each before a second of anyone.
    rounds = [[rows[place] for rows in found if place < len(rows)] for place in range(each)]
    return [row for one_round in rounds for row in one_round]
