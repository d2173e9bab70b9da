"""What a batch object says of the address at which the batch's own end is told: never what makes it a secret. Pure."""

from typing import Any
from urllib.parse import urlsplit

from backfill.batch import Batch

__all__ = ["render_own_webhook", "show_webhook_url"]


def render_own_webhook(batch: Batch) -> dict[str, Any]:
    """A member `webhook_url`, only where there is one: the object is else exactly as clients know it."""
    return {} if batch.own_webhook_url is None else {"webhook_url": show_webhook_url(batch.own_webhook_url)}


def show_webhook_url(url: str) -> str:
    """The URL without user, password, query and fragment; nothing of what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
