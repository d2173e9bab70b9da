"""The doors: the HTTP API. The web asks the other rooms and answers; it runs no work."""

from backfill.web.api import Services, create_app

__all__ = ["Services", "create_app"]
