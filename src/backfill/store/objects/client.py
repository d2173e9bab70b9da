"""Calls to an object store, each tried again for a while; what an error says holds nothing that the store answered.

An answer of a store may quote what was signed, so that only its status is told. Calls block: in worker threads alone.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from backfill.errors import NotFound, StoreUnavailable
from backfill.store.objects.outage import Outage

__all__ = ["LONG_PATIENCE_S", "PATIENCE_S", "Found", "ObjectClient", "Stores"]

PATIENCE_S = 10.0
"""So long a store may fail before a caller hears of it."""
LONG_PATIENCE_S = 300.0
"""The same for what would have to be computed again."""
_CALLS_AT_ONCE = 8
_LISTED_AT_ONCE = 1000
# What is larger may take long to be sent.
_SOON_SENT_BYTES = 1 << 20
_STATUS = re.compile(r"\b(?:status|code)[^0-9]{0,12}([45][0-9]{2})\b", re.IGNORECASE)
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Found(NamedTuple):
    """An object as it is listed."""

    key: str
    size_bytes: int
    version: str
    changed_at_ms: int = 0
    """By the store's clock."""


class Stores(NamedTuple):
    """The ways to one place."""

    prompt: S3Store
    """For what is answered soon: a call ends as soon as nothing comes for a while."""
    patient: S3Store
    """For what takes long before the first byte is answered: large objects, and copies."""
    uploads: S3Store
    """For uploads in parts, whose parts are tried again inside."""


class ObjectClient:
    """One bucket, or what lies under one prefix of it."""

    def __init__(self, stores: Stores) -> None:
        self._store, self._patient, self.uploads = stores
        self._outage = Outage(PATIENCE_S)
        self.threads = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="objects")
        """For calls side by side, and for what nobody waits for."""

    def close(self) -> None:
        """Let nothing be tried again any more."""
        self._outage.end()
        self.threads.shutdown(wait=True, cancel_futures=False)

    def each(self, call: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """What `call` gives for each item, several at once; raises what the first of them raised."""
        if len(items) <= 1:
            return [call(item) for item in items]
        return list(self.threads.map(call, items))

    def get(self, key: str, start: int, end: int, version: str | None = None) -> bytes:
        """The bytes of a range that is not empty; raises NotFound, also if it is another `version` by now."""

        def ask() -> bytes:
            options: obstore.GetOptions = {"range": (start, end)}
            if version is not None:
                options["if_match"] = version
            return bytes(obstore.get(self._store, key, options=options).bytes())

        try:
            return self.call("read", key, ask)
        except PreconditionError:
            raise NotFound(f"The blob {key} was replaced while it was read.") from None

    def get_whole(self, key: str) -> bytes:
        """All bytes of an object; raises NotFound."""
        return self.call("read", key, lambda: bytes(obstore.get(self._store, key).bytes()))

    def head(self, key: str) -> Found:
        """What an object looks like; raises NotFound."""
        meta = self.call("look at", key, lambda: obstore.head(self._store, key))
        return Found(key, meta["size"], meta["e_tag"] or "")

    def put(self, key: str, data: bytes) -> None:
        """Write an object, or replace it."""
        self._change("write", key, lambda: obstore.put(self._choose(data), key, data, use_multipart=False))

    def create(self, key: str, data: bytes, patience_s: float = PATIENCE_S) -> bool:
        """Write an object that was not there; False if another one made it.

        One that has arrived although its answer was lost counts as written.
        """
        tries = 0

        def ask() -> bool:
            nonlocal tries
            tries += 1
            try:
                obstore.put(self._choose(data), key, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # Ours only if an earlier try may have arrived.
                return tries > 1 and bytes(obstore.get(self._store, key).bytes()) == data
            return True

        return self._change("write", key, ask, patience_s)

    def copy(self, key: str, new_key: str) -> None:
        """Copy an object within the store; raises NotFound."""
        self.call("copy", key, lambda: obstore.copy(self._patient, key, new_key, overwrite=True))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, those of them that are there."""

        def remove(some: list[str]) -> None:
            try:
                self.call("remove", some[0], lambda: obstore.delete(self._store, some))
            except NotFound:
                for key in some:
                    self._delete_one(key)

        self.each(remove, [list(keys[at : at + _LISTED_AT_ONCE]) for at in range(0, len(keys), _LISTED_AT_ONCE)])

    def _delete_one(self, key: str) -> None:
        try:
            self.call("remove", key, lambda: obstore.delete(self._store, key))
        except NotFound:
            return

    def list_all(self, prefix: str, after: str | None = None) -> list[Found]:
        """All objects under a folder, however deep, in the order of their keys; those behind `after`."""

        def ask() -> list[Found]:
            pages: Iterator[Sequence[obstore.ObjectMeta]] = obstore.list(
                self._store, prefix or None, offset=after, chunk_size=_LISTED_AT_ONCE
            )
            return sorted(_note(one) for page in pages for one in page)

        return self._change("list", prefix, ask)

    def list_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names of the folders, and keys of the objects right under a folder, sorted."""

        def ask() -> tuple[list[str], list[str]]:
            found = obstore.list_with_delimiter(self._store, prefix or None)
            folders = sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])
            # A store that has real folders may name the folder itself.
            return folders, sorted(one["path"] for one in found["objects"] if one["path"] != prefix)

        return self._change("list", prefix, ask)

    def _choose(self, data: bytes) -> S3Store:
        return self._store if len(data) <= _SOON_SENT_BYTES else self._patient

    def _change(self, verb: str, key: str, ask: Callable[[], _Result], patience_s: float = PATIENCE_S) -> _Result:
        try:
            return self.call(verb, key, ask, patience_s)
        except NotFound:
            raise StoreUnavailable(f"Cannot {verb} {key} in the object store: there is no such bucket.") from None

    def call(self, verb: str, key: str, ask: Callable[[], _Result], patience_s: float = PATIENCE_S) -> _Result:
        """What `ask` gives, which is asked again while the store fails.

        Raises:
            NotFound: there is no such object.
            StoreUnavailable: the store has failed for too long, or refuses.

        """
        tries, began_s = 0, time.monotonic()
        while True:
            if self._outage.may_try():
                try:
                    return self._ask(key, ask)
                except (BaseError, OSError) as error:
                    if isinstance(error, (AlreadyExistsError, PreconditionError)):
                        raise
                    failure = make_unavailable(verb, key, error)
                    since_s = self._outage.note_failure()
                    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
                        raise failure from None
            else:
                failure = _tell(verb, key, "it does not answer")
                since_s = self._outage.since_s
            if time.monotonic() - min(began_s, since_s) > patience_s or not self._outage.wait(tries):
                raise failure
            tries += 1

    def _ask(self, key: str, ask: Callable[[], _Result]) -> _Result:
        """As `call`, once: an answer is one, whatever it says."""
        try:
            result = ask()
        except (NotFoundError, FileNotFoundError):
            self._outage.note_success()
            raise NotFound(f"There is no blob {key}.") from None
        except (AlreadyExistsError, PreconditionError):
            self._outage.note_success()
            raise
        self._outage.note_success()
        return result


def _note(one: "obstore.ObjectMeta") -> Found:
    changed_at_ms = int(one["last_modified"].timestamp() * 1000)
    return Found(one["path"], one["size"], one["e_tag"] or "", changed_at_ms)


def make_unavailable(verb: str, key: str, error: Exception) -> StoreUnavailable:
    """What could not be done, and why as far as nothing secret can be in it."""
    status = _STATUS.search(str(error))
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        reason = "it refuses the access key"
    elif status is not None:
        reason = f"it answers with status {status[1]}"
    elif re.search("timed out|TimedOut", str(error)):
        reason = "it does not answer in time"
    else:
        reason = "it cannot be reached"
    return _tell(verb, key, reason)


def _tell(verb: str, key: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"Cannot {verb} {key or 'the folder'} in the object store: {reason}.")
