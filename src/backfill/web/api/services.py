"""What the handlers need from the rest of the process, handed in by the wiring."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import ASGIApp

from backfill.accounts import Keys, UsageBook
from backfill.batch import Batch, Standing
from backfill.catalogue import Catalogue
from backfill.config import Config
from backfill.intake import Intake, Leftover
from backfill.live import Traffic
from backfill.status import Forecast, MetricsSource, ReplicaStatus, ServedModel, Waiting
from backfill.store import Blobs, Metadata
from backfill.turns import Turns
from backfill.web.api.audit import Audit
from backfill.web.api.readiness import Readiness

__all__ = ["Services", "ServicesOf"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The rooms and functions behind the API."""

    config: Config
    blobs: Blobs
    metadata: Metadata
    keys: Keys
    intake: Intake
    turns: Turns
    measure: Callable[[Batch], Awaitable[Standing]]
    """Folds the journal of a batch that has not ended; the row of one that has carries its counts and usage."""
    usage: UsageBook
    find_wait: Callable[[Batch], Waiting | None]
    """What holds a batch up that has not ended; None if it moves."""
    forecast: Callable[[Batch], Awaitable[Forecast | None]]
    """When a batch will be done that has not ended; None if nothing tells."""
    foresee: Callable[[Batch], Awaitable[Forecast | None]]
    """The same of a batch that is not made yet."""
    catalogue: Catalogue
    live: Traffic
    list_models: Callable[[], Awaitable[list[ServedModel]]]
    """Those that are served now."""
    list_replicas: Callable[[], Sequence[ReplicaStatus]]
    collect: Callable[..., Awaitable[list[Leftover]]]
    """Removes what is over, or with `is_trial` only finds it."""
    find_webhook_secret: Callable[[str], Awaitable[str]]
    """With what messages to the own addresses of an owner's batches are signed."""
    signing_key: bytes
    """For the signed upload addresses; the same in every process that shares the metadata."""
    relay_key: str = ""
    """What has to be shown to pass live requests on to this process; empty: nobody may."""
    is_shared: bool = False
    """Other processes work on the same data directory."""
    metrics_sources: Sequence[MetricsSource] = ()
    """What `/metrics` tells beside replicas, batches and logins."""
    audit: Audit = field(default_factory=Audit)
    readiness: Readiness = field(default_factory=lambda: Readiness({}))
    trace: Callable[[ASGIApp], ASGIApp] | None = None
    """Puts a span around each request; None: nobody collects any."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server ends: answers that would go on for as long as a batch runs are cut."""


# Dependencies are coroutines, or each request would wait for a worker thread to look up an attribute.
async def _get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_get_services)]
