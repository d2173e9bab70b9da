"""Staying with a batch until it has ended, over restarts of its server too."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from backfill.batch import Counts
from backfill.cli.batch_groups import FINAL, BatchGroup, find_group
from backfill.cli.console import name_duration, write_out
from backfill.cli.progress import ProgressDisplay
from backfill.cli.remote import UNREACHABLE, RemoteServer
from backfill.errors import BackfillError
from backfill.status import WaitReason

__all__ = ["count_lines", "follow_progress", "follow_results", "name_expected", "name_status"]

_POLL_S = 1.0
# A server may be restarted under a watcher, and a batch lives through that.
_UNREACHABLE_MAX_S = 300.0
_SILENT = "the server does not answer, trying again"
_Batch = dict[str, Any]


class _Patience:
    """How long a silent server is waited for."""

    def __init__(self) -> None:
        self._silent_since: float | None = None

    @property
    def is_tried(self) -> bool:
        """Whether the server was silent the last time."""
        return self._silent_since is not None

    def note_answer(self) -> None:
        """The server is there."""
        self._silent_since = None

    def note_failure(self, error: BackfillError) -> None:
        """Raise `error` unless it only says that no answer came, and that has not been so for too long."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if error.code != UNREACHABLE or now - self._silent_since > _UNREACHABLE_MAX_S:
            raise error


async def follow_progress(server: RemoteServer, batch_id: str, display: ProgressDisplay) -> BatchGroup:
    """Show the batch, or the group, until it has ended; gives its last state."""
    group = await find_group(server, batch_id)
    patience = _Patience()
    while not group.has_ended:
        batch = group.summary
        display.show(count_lines(batch), _SILENT if patience.is_tried else _name_wait(batch), _find_left_s(batch))
        await asyncio.sleep(_POLL_S)
        try:
            group = await group.look_again(server)
            patience.note_answer()
        except BackfillError as error:
            patience.note_failure(error)
    display.show(count_lines(group.summary), final=True)
    return group


async def follow_results(server: RemoteServer, batch_id: str, *, as_json: bool) -> BatchGroup:
    """Print each result line once, as soon as it is there, until all have ended; gives the last state.

    `as_json`: as events, since others stand on standard output as well.
    """
    # Before anything is waited for: not a server that was never there.
    group = await find_group(server, batch_id)
    ended = await asyncio.gather(*(_follow_results(server, each["id"], as_json=as_json) for each in group.batches))
    return BatchGroup(group.id, tuple(ended), group.parts)


async def _follow_results(server: RemoteServer, batch_id: str, *, as_json: bool) -> _Batch:
    patience = _Patience()
    printed = 0
    while True:
        try:
            batch = await server.get_batch(batch_id)
            patience.note_answer()
            async for line in server.stream_results(batch_id, after=printed):
                text = line.decode()
                write_out(f'{{"event":"result","result":{text}}}' if as_json else text)
                printed += 1
            # If it had ended before the lines were asked for, then those that came are all.
            if batch["status"] in FINAL:
                return batch
        except BackfillError as error:
            patience.note_failure(error)
            await asyncio.sleep(_POLL_S)


def _name_wait(batch: _Batch) -> str | None:
    """What the server says of a batch that does not move."""
    waiting = batch.get("waiting")
    return f"waiting: {waiting['message']}" if waiting else None


def name_expected(batch: _Batch) -> str | None:
    """When the server takes the batch to be done, in its words and in ours."""
    left_s = _find_left_s(batch)
    return None if left_s is None else f"{batch['estimated_completion_at']} (in {name_duration(left_s)})"


def _find_left_s(batch: _Batch) -> float | None:
    expected = batch.get("estimated_completion_at")
    if expected is None:
        return None
    return max(0.0, (datetime.fromisoformat(expected) - datetime.now(UTC)).total_seconds())


def name_status(batch: _Batch) -> str:
    """The status in the words of the batch object's dialect; that a batch is paused stands elsewhere in it."""
    status: str = batch["status"]
    waiting = batch.get("waiting")
    if waiting is None or waiting["reason"] != WaitReason.PAUSED:
        return status
    return "PAUSED" if status.isupper() else "paused"


def count_lines(batch: _Batch) -> Counts:
    """How many lines of the batch object are done."""
    counts = batch["request_counts"]
    return Counts(total=counts["total"], answered=counts["completed"], failed=counts["failed"])
