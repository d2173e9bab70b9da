"""API keys as OpenAI's administration API shows them, with scopes, limits and owner beside its own members."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backfill.api_key import ApiKey

__all__ = ["render_deleted_key", "render_key", "render_key_page"]


def render_key(key: ApiKey, secret: str | None = None) -> dict[str, Any]:
    """A key; with itself only in the answer to the request that made it."""
    rendered = {
        "object": "organization.admin_api_key",
        "id": key.id,
        "name": key.name,
        "redacted_value": f"{key.prefix}...",
        "created_at": key.created_at_ms // 1000,
        "expires_at": _to_s(key.expires_at_ms),
        "last_used_at": _to_s(key.last_used_at_ms),
        "revoked_at": _to_s(key.revoked_at_ms),
        "owner": {
            "type": "user",
            "object": "organization.user",
            "id": key.owner,
            "name": key.owner,
            "created_at": key.created_at_ms // 1000,
            "role": "owner",
        },
        "scopes": list(key.scopes),
        "limits": msgspec.structs.asdict(key.limits),
    }
    return rendered if secret is None else rendered | {"value": secret}


def render_key_page(keys: Sequence[ApiKey], *, has_more: bool) -> dict[str, Any]:
    """Keys, and whether there are more behind them."""
    return {
        "object": "list",
        "data": [render_key(key) for key in keys],
        "first_id": keys[0].id if keys else None,
        "last_id": keys[-1].id if keys else None,
        "has_more": has_more,
    }


def render_deleted_key(key: ApiKey) -> dict[str, Any]:
    """A key that lets nobody in any more."""
    return {"object": "organization.admin_api_key.deleted", "id": key.id, "deleted": True}


def _to_s(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms // 1000
