"""How a key is made: what may be asked for, and the secret itself, which exists nowhere but in the answer."""

import hashlib
import secrets
import string

import msgspec

from backfill.api_key import ApiKey, KeyLimits, Scope
from backfill.errors import InvalidInput

__all__ = ["DEFAULT_SCOPES", "KeyDraft", "digest_of", "make_key"]

DEFAULT_SCOPES = (Scope.BATCH, Scope.LIVE)
"""What a key is good for if nobody says: everything but other keys and what others have used."""

_SCHEME = "bf_"
_LETTERS = string.ascii_letters + string.digits
_SECRET_LENGTH = 40  # 238 bits
_PREFIX_LENGTH = 9
_NAME_LENGTH_MAX = 64
_EXPIRES_AFTER_MAX_S = 100 * 366 * 86_400


class KeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    name: str
    owner: str | None = None
    """None: the name."""
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    limits: KeyLimits = KeyLimits()
    expires_after_s: int | None = None


def make_key(draft: KeyDraft, now_ms: int) -> tuple[ApiKey, str]:
    """A new key, as its row has it and as it is presented; raises InvalidInput."""
    owner = draft.name if draft.owner is None else draft.owner
    _check_name(draft.name, "name")
    _check_name(owner, "owner")
    if not draft.scopes:
        raise InvalidInput(f"A key needs at least one scope of {', '.join(Scope)}.", param="scopes")
    for name, limit in msgspec.structs.asdict(draft.limits).items():
        if limit is not None and limit <= 0:
            raise InvalidInput(f"The limit {name} must be greater than 0; got {limit}.", param="limits")
    expires_at_ms = None
    if draft.expires_after_s is not None:
        if not 0 < draft.expires_after_s <= _EXPIRES_AFTER_MAX_S:
            message = f"A key expires after 1 second to 100 years; got {draft.expires_after_s} s."
            raise InvalidInput(message, param="expires_in_seconds")
        expires_at_ms = now_ms + draft.expires_after_s * 1000
    secret = _SCHEME + "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))
    key = ApiKey(
        id=f"key_{secrets.token_hex(12)}",
        owner=owner,
        name=draft.name,
        prefix=secret[:_PREFIX_LENGTH],
        digest=digest_of(secret),
        scopes=tuple(scope for scope in Scope if scope in draft.scopes),
        limits=draft.limits,
        created_at_ms=now_ms,
        expires_at_ms=expires_at_ms,
    )
    return key, secret


def digest_of(presented: str) -> str:
    """What is kept of a key. It needs no salt and no slowness: a key is random and long, unlike a password."""
    return hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()


def _check_name(name: str, param: str) -> None:
    if not 0 < len(name) <= _NAME_LENGTH_MAX or not name.isprintable() or name != name.strip():
        message = (
            f"The {param} of a key has 1 to {_NAME_LENGTH_MAX} printable characters and no space at its ends; "
            f"got {name[: _NAME_LENGTH_MAX + 1]!r}."
        )
        raise InvalidInput(message, param=param)
