"""The API over rooms that are at work."""

from fastapi import FastAPI

from backfill.app import Rooms
from backfill.web.api import Services, create_app

__all__ = ["serve"]


def serve(rooms: Rooms) -> tuple[FastAPI, Services]:
    """The application, and what it was given."""
    services = Services(
        config=rooms.config,
        blobs=rooms.blobs,
        metadata=rooms.metadata,
        intake=rooms.intake,
        turns=rooms.turns,
        count=rooms.progress.count,
        list_models=rooms.fleet.served_models,
        list_replicas=lambda: rooms.dispatcher.replica_statuses,
        signing_key=b"k" * 32,
    )
    return create_app(services), services
