"""The API over rooms that are at work."""

from typing import Any

from fastapi import FastAPI

from backfill.accounts import WebhookSecrets
from backfill.app import Rooms
from backfill.web.api import Services, create_app

__all__ = ["serve"]


def serve(rooms: Rooms, **others: Any) -> tuple[FastAPI, Services]:
    """The application, and what it was given."""
    services = Services(
        find_webhook_secret=WebhookSecrets(rooms.metadata).find,
        config=rooms.config,
        blobs=rooms.blobs,
        metadata=rooms.metadata,
        keys=rooms.keys,
        intake=rooms.intake,
        turns=rooms.turns,
        measure=rooms.progress.measure,
        usage=rooms.usage,
        find_wait=rooms.dispatcher.find_wait,
        forecast=rooms.forecaster.find,
        foresee=rooms.forecaster.foresee,
        catalogue=rooms.catalogue,
        list_models=rooms.fleet.list_models,
        live=rooms.live,
        collect=rooms.retention.collect,
        list_replicas=lambda: rooms.dispatcher.replica_statuses,
        signing_key=b"k" * 32,
        **others,
    )
    return create_app(services), services
