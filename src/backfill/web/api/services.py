"""What the handlers need from the rest of the process, handed in by the wiring."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from backfill.batch import Batch, Counts
from backfill.config import Config
from backfill.intake import Intake
from backfill.status import ReplicaStatus
from backfill.store import LocalBlobs, Metadata
from backfill.turns import Turns

__all__ = ["Services", "ServicesOf"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The rooms and functions behind the API."""

    config: Config
    blobs: LocalBlobs
    metadata: Metadata
    intake: Intake
    turns: Turns
    count: Callable[[Batch], Awaitable[Counts]]
    """Folds the journal of a batch that has not ended; the row of one that has carries its counts."""
    list_models: Callable[[], list[str]]
    list_replicas: Callable[[], Sequence[ReplicaStatus]]
    signing_key: bytes
    """For the signed upload addresses; the same in every process that shares the metadata."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server ends: answers that would go on for as long as a batch runs are cut."""


# Dependencies are coroutines, or each request would wait for a worker thread to look up an attribute.
async def _get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_get_services)]
