"""One batch, or the batches that a file was cut into: looked at, and told of, as if they were one.

A batch that is a part says so in its metadata: `group`, which part it is (`part`, from 1), and of how many (`parts`).
Where a command takes a batch's id it takes that of a group too, and the id of a part stands for its group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from backfill.cli.remote import RemoteServer
from backfill.errors import Conflict, NotFound

__all__ = ["FINAL", "GROUP_PREFIX", "BatchGroup", "find_group", "list_parts", "name_part"]

FINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
GROUP_PREFIX = "group-"
_WORST_FIRST = ("FAILED", "EXPIRED", "CANCELLED", "COMPLETED")
_SUMS = ("list", "discount", "paid", "saved")

_Batch = dict[str, Any]


@dataclass(frozen=True)
class BatchGroup:
    """Batches in the order of their parts; one alone that is no part of anything has its own id here."""

    id: str
    batches: tuple[_Batch, ...]
    parts: int = 1
    """How many there are to be."""

    @property
    def is_cut(self) -> bool:
        """Whether it is more than a batch by itself."""
        return self.id.startswith(GROUP_PREFIX)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of any of its batches."""
        return all(batch["status"] in FINAL for batch in self.batches)

    @property
    def is_rejected(self) -> bool:
        """Whether nothing of it could be run."""
        return all(batch["status"] == "FAILED" for batch in self.batches)

    @property
    def summary(self) -> _Batch:
        """The batch object; of several one that tells of all, with them as `batches`."""
        return self.batches[0] if not self.is_cut else _sum_up(self)

    def list_files(self, member: str) -> list[str]:
        """The ids of its output or error files, in the order of the requests."""
        return [batch[member] for batch in self.batches if batch[member]]

    async def look_again(self, server: RemoteServer) -> "BatchGroup":
        """As it is now."""
        if not self.is_cut:
            return BatchGroup(self.id, (await server.get_batch(self.id),))
        return _make_group(self.id, await list_parts(server, self.id))

    def check_whole(self) -> None:
        """Raise Conflict if parts were not submitted yet."""
        if len(self.batches) < self.parts:
            message = (
                f"Only {len(self.batches):,} of the {self.parts:,} batches of {self.id} were submitted; "
                "the same `backfill submit` makes the rest."
            )
            raise Conflict(message, code="group_not_whole")

    def check_ended(self) -> None:
        """Raise Conflict if there are no results yet, or not of every part."""
        if not self.has_ended:
            status = self.summary["status"]
            message = f"The batch has not ended ({status}); `backfill watch {self.id}` waits for it."
            raise Conflict(message, code="batch_not_ended")
        self.check_whole()


async def find_group(server: RemoteServer, identity: str) -> BatchGroup:
    """What a batch's or a group's id stands for; raises NotFound if there is no such thing."""
    if identity.startswith(GROUP_PREFIX):
        parts = await list_parts(server, identity)
        if not parts:
            raise NotFound(f"No such group: {identity}. `backfill list` shows the batches that there are.")
        return _make_group(identity, parts)
    batch = await server.get_batch(identity)
    group_id = (batch.get("metadata") or {}).get("group", "")
    if group_id.startswith(GROUP_PREFIX):
        parts = await list_parts(server, group_id)
        if any(part["id"] == batch["id"] for part in parts):
            return _make_group(group_id, parts)
    return BatchGroup(batch["id"], (batch,))


async def list_parts(server: RemoteServer, group_id: str) -> list[_Batch]:
    """The batches of a group in the order of their parts."""
    found = await server.list_group(group_id)
    ids = {batch["id"] for batch in found}
    # Whatever runs one of them again takes its metadata over, and is no further part.
    parts = [batch for batch in found if batch["metadata"].get("retry_of") not in ids and _number(batch)]
    return sorted(parts, key=_number)


def name_part(batch: _Batch) -> str:
    """Of which group a batch is which part; empty if it is none."""
    metadata = batch.get("metadata") or {}
    group_id = metadata.get("group", "")
    return f"part {_number(batch)} of {group_id}" if group_id.startswith(GROUP_PREFIX) and _number(batch) else ""


def _make_group(group_id: str, parts: Sequence[_Batch]) -> BatchGroup:
    return BatchGroup(group_id, tuple(parts), _count(parts[0]["metadata"].get("parts")))


def _number(batch: _Batch) -> int:
    return _count((batch.get("metadata") or {}).get("part"))


def _count(text: str | None) -> int:
    """A number from metadata, into which anybody may write anything; 0 if it is none."""
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _sum_up(group: BatchGroup) -> _Batch:
    batches = group.batches
    total, completed, failed = (
        sum(batch["request_counts"][name] for batch in batches) for name in ("total", "completed", "failed")
    )
    ended = group.has_ended
    open_ones = [batch for batch in batches if batch["status"] not in FINAL]
    expected = [batch.get("estimated_completion_at") for batch in open_ones]
    waiting = [batch.get("waiting") for batch in open_ones]
    reused = sum((batch.get("reused") or {}).get("requests", 0) for batch in batches)
    return {
        "id": group.id,
        "name": _agree(batch.get("name") for batch in batches),
        "status": _name_status([batch["status"] for batch in batches]),
        "parts": group.parts,
        "endpoint": batches[0]["endpoint"],
        "model_id": _agree(batch["model_id"] for batch in batches),
        "progress": round(100.0 * (completed + failed) / total, 2) if total else 0.0,
        "request_counts": {"total": total, "completed": completed, "failed": failed},
        "created_at": min(batch["created_at"] for batch in batches),
        "job_deadline": max(batch["job_deadline"] for batch in batches),
        "completed_at": max(batch["completed_at"] for batch in batches) if ended else None,
        "output_file_id": _first(batch["output_file_id"] for batch in batches),
        "error_file_id": _first(batch["error_file_id"] for batch in batches),
        "error": "; ".join(f"part {_number(each)}: {each['error']}" for each in batches if each["error"]) or None,
        "estimated_completion_at": max(map(str, expected)) if expected and all(expected) else None,
        # As long as one of them moves, the whole does.
        "waiting": waiting[0] if waiting and all(waiting) else None,
        "reused": {"requests": reused} if reused else None,
        "cost": _add_costs([batch["cost"] for batch in batches if batch.get("cost")]),
        "batches": list(batches),
    }


def _name_status(statuses: Sequence[str]) -> str:
    """That of all if they have one; while some go on that of these, and in the end the worst."""
    under_way = [status for status in statuses if status not in FINAL]
    if under_way:
        return under_way[0] if len({*statuses}) == 1 else "IN_PROGRESS"
    return next(status for status in _WORST_FIRST if status in statuses)


def _agree(values: Iterable[str | None]) -> str | None:
    found = {*values}
    return found.pop() if len(found) == 1 else None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)


def _add_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the batches cost together, without a row for each model; a sum is without what has no price."""
    if not costs:
        return None
    shown = [name for name in _SUMS if name in costs[0]]
    sums = {name: [Decimal(cost[name]) for cost in costs if cost[name] is not None] for name in shown}
    return {
        "currency": costs[0]["currency"],
        **{name: f"{sum(amounts):f}" if amounts else None for name, amounts in sums.items()},
        "unpriced_models": sorted({model for cost in costs for model in cost["unpriced_models"]}),
    }
