"""Whom the server lets in: keys of the settings and keys of the database, as they are at this moment."""

import asyncio
import hmac
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import structlog

from backfill.accounts.key_draft import KeyDraft, digest_of, make_key
from backfill.accounts.key_uses import KeyUses
from backfill.api_key import ALL_SCOPES, ApiKey, Caller, KeyState, Scope
from backfill.errors import NotFound, StoreUnavailable, Unauthorized
from backfill.store import ApiKeys

__all__ = ["ANONYMOUS", "Keys", "count_by_state", "now_ms"]

ANONYMOUS = "0" * 24
"""Owns everything as long as there are no keys. In the form of a user id of Together's."""

# A process that changed a key and was killed before it could say so is found out after this time.
_AGE_MAX_S = 10.0
_OWNER_LENGTH = 24
_log = structlog.get_logger(__name__)


class _Snapshot(NamedTuple):
    """The rows as they were when the mark was this one."""

    mark: bytes
    read_at_s: float
    by_digest: Mapping[str, ApiKey]
    by_id: Mapping[str, ApiKey]


class Keys:
    """Answers from memory, and reads the rows again when any process has changed one."""

    def __init__(self, stored: ApiKeys, configured: Iterable[str] = ()) -> None:
        self._stored = stored
        self.uses = KeyUses(stored.note_uses)
        """When they were used."""
        self._configured = tuple(digest_of(key) for key in configured)
        self._snapshot: _Snapshot | None = None
        self._own_changes: set[tuple[str, str]] = set()
        self._reading = asyncio.Lock()

    async def are_there(self) -> bool:
        """Whether a key is asked for: once one was made, for ever, or its end would open the door to everybody."""
        return bool(self._configured or (await self._read()).by_id)

    async def identify(self, presented: str | None) -> Caller:
        """Whom a key stands for, None if none was sent; raises Unauthorized."""
        known = (await self._read()).by_digest
        if not (self._configured or known):
            return Caller(ANONYMOUS)
        if not presented:
            message = "No API key was sent. Send it as: Authorization: Bearer <key>."
            raise Unauthorized(message, code="missing_api_key")
        digest = digest_of(presented)
        # Digests are compared, and all of them: how long it takes tells nothing about a key or its length.
        matches = [hmac.compare_digest(digest, each) for each in self._configured]
        if any(matches):
            return Caller(digest[:_OWNER_LENGTH])
        key = known.get(digest)
        if key is None or not hmac.compare_digest(digest, key.digest):
            raise Unauthorized("The API key is not known to this server.")
        _check_time(key)
        self.uses.note(key.id, now_ms())
        scopes = ALL_SCOPES if Scope.ADMIN in key.scopes else frozenset(key.scopes)
        return Caller(key.owner, key.id, scopes, key.limits)

    async def is_valid(self, caller: Caller) -> bool:
        """Whether who was let in would be let in again now."""
        if caller.key_id is None:
            return bool(self._configured) or not (await self._read()).by_id
        key = (await self._read()).by_id.get(caller.key_id)
        return key is not None and key.state_at(now_ms()) is KeyState.ACTIVE

    def note_change(self) -> None:
        """A process elsewhere has changed a key."""
        self._stored.note_change()

    async def list(self) -> list[ApiKey]:
        """All keys of the database that ever were, oldest first."""
        return [self.uses.add_to(key) for key in (await self._read()).by_id.values()]

    async def get(self, key_id: str) -> ApiKey:
        """One that was not revoked; raises NotFound."""
        key = (await self._read()).by_id.get(key_id)
        if key is None or key.revoked_at_ms is not None:
            message = f"No such key: {key_id}."
            raise NotFound(message, param="key_id")
        return self.uses.add_to(key)

    async def create(self, draft: KeyDraft) -> tuple[ApiKey, str]:
        """Make a key: its row, and the key itself, which is known to nobody else; raises InvalidInput."""
        key, secret = make_key(draft, now_ms())
        self._own_changes.add(("key.create", key.id))
        try:
            await self._stored.add(key)
        finally:
            self._forget()
        return key, secret

    async def revoke(self, key_id: str) -> ApiKey:
        """Let nobody in with it any more, from now on. Raises NotFound, also for one that was revoked before."""
        key = await self.get(key_id)
        self._own_changes.add(("key.revoke", key_id))
        try:
            await self._stored.revoke(key_id, now_ms())
        finally:
            self._forget()
        return key

    async def _read(self) -> _Snapshot:
        if (found := self._find_current()) is not None:
            return found
        async with self._reading:
            # Somebody else may have read them meanwhile.
            if (found := self._find_current()) is not None:
                return found
            # First: what is changed while the rows are read is seen the next time.
            mark = self._stored.mark
            try:
                keys: Iterable[ApiKey] = await self._stored.list()
            except StoreUnavailable as error:
                # Nobody has said that they changed: work goes on while the database is out.
                if self._snapshot is None or not mark or self._snapshot.mark != mark:
                    raise
                _log.warning("keys cannot be read again; those read before hold", reason=error.message)
                keys = self._snapshot.by_id.values()
            if self._snapshot is not None:
                self._tell_changes(self._snapshot.by_id, keys)
            by_digest, by_id = {key.digest: key for key in keys}, {key.id: key for key in keys}
            self._snapshot = _Snapshot(mark, time.monotonic(), by_digest, by_id)
            return self._snapshot

    def _tell_changes(self, before: Mapping[str, ApiKey], now: Iterable[ApiKey]) -> None:
        """For the log: what another process did. What was done through this one is told where it was asked for."""
        for key in now:
            known = before.get(key.id)
            if known is not None and known.revoked_at_ms == key.revoked_at_ms:
                continue
            action = "key.create" if key.revoked_at_ms is None else "key.revoke"
            if (action, key.id) in self._own_changes:
                self._own_changes.discard((action, key.id))
            else:
                facts = {"key": key.id, "prefix": key.prefix, "name": key.name, "key_owner": key.owner}
                _log.info("audit", action=action, beside_the_server=True, **facts)

    def _forget(self) -> None:
        """What was done here holds here at once, whether or not the mark could be renewed."""
        if self._snapshot is not None:
            self._snapshot = self._snapshot._replace(mark=b"")

    def _find_current(self) -> _Snapshot | None:
        """The rows, if what is known of them still holds."""
        snapshot = self._snapshot
        if snapshot is None or not snapshot.mark or snapshot.mark != self._stored.mark:
            return None
        return snapshot if time.monotonic() - snapshot.read_at_s < _AGE_MAX_S else None


def now_ms() -> int:
    """The time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _check_time(key: ApiKey) -> None:
    """Raises Unauthorized if the key holds no more. Only who has the whole key is told so."""
    match key.state_at(now_ms()):
        case KeyState.REVOKED:
            message = "This API key was revoked. Ask the server's operator for another."
            raise Unauthorized(message, code="api_key_revoked")
        case KeyState.EXPIRED:
            message = "This API key has expired. Ask the server's operator for another."
            raise Unauthorized(message, code="api_key_expired")
        case KeyState.ACTIVE:
            pass


def count_by_state(keys: Iterable[ApiKey]) -> dict[KeyState, int]:
    """How many keys let their holders in, have expired, and were revoked."""
    counts = dict.fromkeys(KeyState, 0)
    for key in keys:
        counts[key.state_at(now_ms())] += 1
    return counts
