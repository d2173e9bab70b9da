"""Logged in with a key: a signed cookie says as whom, and a token in each form says that the form is ours."""

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

import msgspec

from backfill.accounts import ANONYMOUS, Keys
from backfill.api_key import Caller, KeyLimits, Scope
from backfill.errors import Forbidden

__all__ = ["COOKIE", "SESSION_S", "Sessions"]

COOKIE = "backfill_session"
SESSION_S = 12 * 3600
_NOBODY = "no-session"


class _Session(msgspec.Struct, frozen=True):
    owner: str
    key_id: str | None
    scopes: tuple[Scope, ...]
    until_s: int
    limits: KeyLimits = KeyLimits()


class Sessions:
    """Makes and reads the cookies. Nothing is kept of them: the signature says that they are ours.

    A key that is revoked ends its sessions with the next request. The key itself is not in the cookie.
    """

    def __init__(
        self, keys: Keys, signing_key: bytes, configured_keys: tuple[str, ...], clock_s: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        # With other keys in the settings all sessions end: nothing else would end those of one that is no more.
        context = hashlib.sha256("\0".join(sorted(configured_keys)).encode()).digest()
        self._secret = hmac.digest(signing_key, b"dashboard session" + context, "sha256")
        self._clock_s = clock_s

    async def open(self, key: str) -> str:
        """The cookie for whoever has this key; raises Unauthorized."""
        caller = await self._keys.identify(key)
        until_s = int(self._clock_s()) + SESSION_S
        session = _Session(caller.owner, caller.key_id, tuple(sorted(caller.scopes)), until_s, caller.limits)
        told = urlsafe_b64encode(msgspec.json.encode(session)).decode()
        return f"{told}.{self._sign(told)}"

    async def find_caller(self, cookie: str | None) -> Caller | None:
        """Who asks; None: he has to log in first."""
        if not await self._keys.are_there():
            return Caller(ANONYMOUS)
        session = self._read(cookie or "")
        if session is None or session.until_s < self._clock_s():
            return None
        caller = Caller(session.owner, session.key_id, frozenset(session.scopes), session.limits)
        return caller if await self._keys.is_valid(caller) else None

    def make_token(self, cookie: str | None) -> str:
        """What a form of this session has to bring."""
        return self._sign(f"form {cookie or _NOBODY}")

    def check_token(self, cookie: str | None, token: str) -> None:
        """Raises Forbidden unless the form is one of this session's."""
        if not hmac.compare_digest(self.make_token(cookie).encode(), token.encode()):
            raise Forbidden("This form is not of this session. Open the page again and send it from there.")

    def _read(self, cookie: str) -> _Session | None:
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign(told).encode(), signature.encode()):
            return None
        try:
            return msgspec.json.decode(urlsafe_b64decode(told), type=_Session)
        except (ValueError, msgspec.DecodeError):
            return None

    def _sign(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), "sha256").hex()
