"""Ids of batches that the shell offers at the tab key, if the server says quickly which there are.

What is not known at once is not offered, and nothing is said of it: the user is in the middle of a line.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import typer

from backfill.cli.batch_groups import GROUP_PREFIX
from backfill.cli.connection import open_server
from backfill.errors import BackfillError

__all__ = ["offer_batches", "offer_ended", "offer_unended"]

_PATIENCE_S = 0.8
_NEWEST = 50
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_Batch = dict[str, Any]
_Offers = list[tuple[str, str]]


def offer_batches(ctx: typer.Context) -> _Offers:
    """The newest batches."""
    return list(_name(_ask(ctx)))


def offer_unended(ctx: typer.Context) -> _Offers:
    """Those that can be stopped."""
    return list(_name([batch for batch in _ask(ctx) if batch["status"] not in _ENDED]))


def offer_ended(ctx: typer.Context) -> _Offers:
    """Those that have results."""
    return list(_name([batch for batch in _ask(ctx) if batch["status"] in _ENDED]))


def _name(batches: list[_Batch]) -> Iterator[tuple[str, str]]:
    """Ids and what tells them apart; of a group that of the group before those of its batches."""
    told = set()
    for batch in batches:
        group_id = (batch["metadata"] or {}).get("group", "")
        if group_id.startswith(GROUP_PREFIX) and group_id not in told:
            told.add(group_id)
            yield group_id, "all batches of a file"
        counts = batch["request_counts"]
        yield batch["id"], f"{batch['status']} {counts['completed'] + counts['failed']:,}/{counts['total']:,}"


def _ask(ctx: typer.Context) -> list[_Batch]:
    async def ask() -> list[_Batch]:
        async with open_server(ctx.params.get("url"), ctx.params.get("api_key_env")) as server:
            return await server.list_newest_batches(_NEWEST)

    # Looking up a host's name can be cut short no other way.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)
    try:
        return asyncio.run(ask())
    except (BackfillError, LookupError, TypeError):
        return []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
