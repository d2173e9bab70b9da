"""The nouns of who may do what: a key, its scopes, its limits, and the caller that it stands for."""

from enum import StrEnum

import msgspec

__all__ = ["ALL_SCOPES", "ApiKey", "Caller", "KeyLimits", "KeyState", "Scope"]


class Scope(StrEnum):
    """What a key is good for."""

    BATCH = "batch"
    """Files and batches: make, read, cancel, delete."""
    LIVE = "live"
    """Requests that are answered at once."""
    READ_ONLY = "read-only"
    """Look at files, batches, models and usage; change nothing."""
    ADMIN = "admin"
    """All of these, keys, and the usage of every owner."""


ALL_SCOPES = frozenset(Scope)


class KeyState(StrEnum):
    """Whether a key lets its holder in."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of one key; None: the server's own."""

    requests_per_minute: int | None = None
    """Of live traffic."""
    tokens_per_minute: int | None = None
    """Of live traffic."""
    lines: int | None = None
    """Requests in a file."""
    file_size_bytes: int | None = None
    enqueued_tokens: int | None = None
    """Of the batches of the key's owner that have not ended, for each model."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A row of facts about a key; the key itself is nowhere. Times are milliseconds since the epoch."""

    id: str
    owner: str
    """Whose files and batches it works on; several keys may have one owner."""
    name: str
    prefix: str
    """The first characters of the key, to know it again by."""
    digest: str
    """SHA-256 of the key, in hexadecimal."""
    scopes: tuple[Scope, ...]
    limits: KeyLimits = KeyLimits()
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    last_used_at_ms: int | None = None
    """To the minute. None: never, or not since there is this."""

    def state_at(self, now_ms: int) -> KeyState:
        """Whether it lets its holder in at that time."""
        if self.revoked_at_ms is not None:
            return KeyState.REVOKED
        return KeyState.EXPIRED if self.expires_at_ms is not None and self.expires_at_ms <= now_ms else KeyState.ACTIVE


class Caller(msgspec.Struct, frozen=True):
    """Who asks."""

    owner: str
    key_id: str | None = None
    """None: a key of the settings, or no key at all."""
    scopes: frozenset[Scope] = ALL_SCOPES
    limits: KeyLimits = KeyLimits()
