"""API keys: which there are, a new one, and one that lets nobody in any more."""

from collections.abc import Mapping
from typing import Any

from backfill.accounts import DEFAULT_SCOPES, KeyDraft
from backfill.api_key import ApiKey, Scope
from backfill.errors import InvalidInput
from backfill.turns import now_ms
from backfill.web.dashboard.house import House

__all__ = ["build_keys", "read_draft"]

_SCOPE_WORDS = {
    Scope.BATCH: "files and batches",
    Scope.LIVE: "live requests",
    Scope.READ_ONLY: "look, change nothing",
    Scope.ADMIN: "everything, keys too",
}
_DAYS_MAX = 36_500


async def build_keys(house: House, made: tuple[ApiKey, str] | None = None) -> dict[str, Any]:
    """All keys, newest first; `made` is a new one, which is shown this once."""
    now = now_ms()
    keys = [{"key": key, "state": key.state_at(now).value} for key in reversed(await house.services.keys.list())]
    return {
        "title": "Keys",
        "keys": keys,
        "made": made,
        "scopes": [
            {"name": scope.value, "words": words, "is_set": scope in DEFAULT_SCOPES}
            for scope, words in _SCOPE_WORDS.items()
        ],
        "configured": len(house.services.config.server.api_keys),
    }


def read_draft(form: Mapping[str, str], scopes: list[str]) -> KeyDraft:
    """The key that the form asks for; raises InvalidInput."""
    name, owner, days = form.get("name", "").strip(), form.get("owner", "").strip(), form.get("days", "").strip()
    if not 1 <= len(name) <= 64:
        raise InvalidInput("A key needs a name of 1 to 64 characters.", param="name")
    if len(owner) > 64:
        raise InvalidInput("An owner has 64 characters at most.", param="owner")
    if days and not (days.isascii() and days.isdigit() and 0 < int(days[:9]) <= _DAYS_MAX):
        raise InvalidInput(f"Days must be a whole number from 1 to {_DAYS_MAX}, or nothing.", param="days")
    unknown = [scope for scope in scopes if scope not in set(Scope)]
    if unknown or not scopes:
        raise InvalidInput(f"Choose at least one of {', '.join(Scope)}.", param="scopes")
    expires_after_s = int(days) * 86_400 if days else None
    return KeyDraft(name=name, owner=owner or None, scopes=tuple(map(Scope, scopes)), expires_after_s=expires_after_s)
