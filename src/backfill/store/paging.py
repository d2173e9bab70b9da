"""Lists in the order of creation, from behind a row on."""

from typing import Any

from sqlalchemy import and_, or_

__all__ = ["behind", "in_order"]


def behind(table: Any, created_at_ms: int, row_id: str, *, newest_first: bool) -> Any:
    """The rows that follow one row in the order of `in_order`."""
    created, identity = table.c.created_at_ms, table.c.id
    if newest_first:
        return or_(created < created_at_ms, and_(created == created_at_ms, identity < row_id))
    return or_(created > created_at_ms, and_(created == created_at_ms, identity > row_id))


def in_order(table: Any, query: Any, limit: int, *, newest_first: bool) -> Any:
    """The query's rows in that order; equal times are told apart by the ids."""
    columns = (table.c.created_at_ms, table.c.id)
    return query.order_by(*(column.desc() if newest_first else column.asc() for column in columns)).limit(limit)
