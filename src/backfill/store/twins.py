"""The batch that an earlier attempt of the same request made: how it is sought."""

from typing import Any

from sqlalchemy import bindparam, select

from backfill.store.schema import batches

__all__ = ["seek_twin"]

_TWIN_BY_KEY = select(batches).where(
    batches.c.owner == bindparam("owner"), batches.c.idempotency_key == bindparam("key")
)
_TWIN_BY_DIGEST = (
    select(batches)
    .where(
        batches.c.owner == bindparam("owner"),
        batches.c.request_digest == bindparam("digest"),
        batches.c.created_at_ms >= bindparam("since"),
    )
    .order_by(batches.c.created_at_ms.desc(), batches.c.id.desc())
    .limit(1)
)


def seek_twin(
    owner: str, key: str | None, digest: str, repeats_since_ms: int | None
) -> tuple[Any, dict[str, Any]] | None:
    """The query for the batch that was made of the same request, and its values; None if none can be told."""
    if key is not None:
        return _TWIN_BY_KEY, {"owner": owner, "key": key}
    if repeats_since_ms is not None:
        return _TWIN_BY_DIGEST, {"owner": owner, "digest": digest, "since": repeats_since_ms}
    return None
