"""Requests in the create call itself: they become an input file of the owner's, by the way that an upload takes."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import msgspec

from backfill.batch import Dialect, File, FileStatus
from backfill.errors import InvalidInput
from backfill.intake import FileLimits, Intake, new_file_id
from backfill.turns import now_ms
from backfill.wire import openai, together

__all__ = ["InlineRequests", "take_out_requests"]

_FILENAME = "requests.jsonl"
# As long as OpenAI keeps inputs of batches. That such a file has an end of its own is also what removes one whose batch
# a crash left unmade.
_KEPT_S = 30 * 86_400
_PIECE_BYTES = 1 << 18
_PURPOSE = {Dialect.TOGETHER: together.PURPOSES[0], Dialect.OPENAI: openai.PURPOSES[0]}
_FORM = "an object as a line of an input file is, with custom_id and body"
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Target(msgspec.Struct):
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    url: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def take_out_requests(body: bytes) -> tuple[bytes, bytes | None]:
    """A create call without its `requests`, and these as they were written; None: there are none, or it is no JSON."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except _UNREADABLE:
        return body, None
    found = bytes(members.pop("requests", b"null"))
    return (body, None) if found == b"null" else (msgspec.json.encode(members), found)


class InlineRequests(NamedTuple):
    """The requests of one create call."""

    requests: list[bytes]
    """The bytes of each, in order."""
    digest: str
    """The same for all spellings of the same requests."""

    @classmethod
    def read(cls, written: bytes) -> "InlineRequests":
        """What `take_out_requests` found; raises InvalidInput if it is no list of objects."""
        try:
            requests = [bytes(each) for each in msgspec.json.decode(written, type=list[msgspec.Raw])]
        except msgspec.ValidationError:
            raise InvalidInput(f"requests must be an array, each {_FORM}.", param="requests") from None
        if not requests:
            raise InvalidInput(f"requests is empty; it needs one request at least, {_FORM}.", param="requests")
        for number, each in enumerate(requests):
            if not each.startswith(b"{"):
                raise InvalidInput(f"requests[{number}] must be {_FORM}.", param=f"requests[{number}]")
        return cls(requests, _digest(written))

    async def seal(
        self, intake: Intake, limits: FileLimits, owner: str, asked: tuple[Dialect, str], keeps: tuple[int, int | None]
    ) -> File:
        """Make a file of them; raises TooLarge.

        `asked`: the dialect and the endpoint of the batch. `keeps`: how long the batch may run, in ms, and how many
        seconds its results are kept then, if that was said.
        """
        dialect, endpoint = asked
        window_ms, keep_s = keeps
        created_at_ms = now_ms()
        upload = intake.begin(new_file_id(), limits, _PURPOSE[dialect])
        try:
            for piece in self._write(endpoint if dialect is Dialect.OPENAI else None):
                await upload.feed(piece)
            draft = File(
                id=upload.file_id,
                owner=owner,
                filename=_FILENAME,
                purpose=_PURPOSE[dialect],
                status=FileStatus.RESERVED,
                created_at_ms=created_at_ms,
                expires_at_ms=created_at_ms + window_ms + 1000 * (_KEPT_S if keep_s is None else keep_s),
            )
            return await upload.seal(draft)
        finally:
            upload.abort()

    def _write(self, endpoint: str | None) -> Iterator[bytes]:
        """Lines, some hundred kilobytes at a time; with an endpoint, it is written where a request names none."""
        lines: list[bytes] = []
        size_bytes = 0
        for each in self.requests:
            # Outside of strings, where alone a line end can stand, a space means the same.
            line = each.replace(b"\r", b" ").replace(b"\n", b" ")
            lines.append((line if endpoint is None else _name_target(line, endpoint)) + b"\n")
            size_bytes += len(line)
            if size_bytes >= _PIECE_BYTES:
                yield b"".join(lines)
                lines, size_bytes = [], 0
        yield b"".join(lines)


def _name_target(line: bytes, endpoint: str) -> bytes:
    """The line with `method` and `url`, which OpenAI's dialect demands; as it is if it has one of them."""
    try:
        target = msgspec.json.decode(line, type=_Target)
    except _UNREADABLE:
        return line
    if target.method is not msgspec.UNSET or target.url is not msgspec.UNSET:
        return line
    rest = line[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"method":"POST","url":%b%b%b' % (msgspec.json.encode(endpoint), comma, rest)


def _digest(written: bytes) -> str:
    # What cannot be read whole stands for itself.
    with suppress(*_UNREADABLE):
        written = msgspec.json.encode(msgspec.json.decode(written), order="sorted")
    return hashlib.sha256(written).hexdigest()
