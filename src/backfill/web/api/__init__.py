"""The HTTP API: thin handlers around intake, turns and the store. docs/wire.md is its contract."""

from backfill.web.api.app import create_app
from backfill.web.api.services import Services

__all__ = ["Services", "create_app"]
