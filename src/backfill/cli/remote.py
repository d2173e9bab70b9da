"""Requests to a running server, over the same API that the SDKs use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import aiohttp
import msgspec

from backfill.errors import BackfillError, InvalidInput
from backfill.status import ReplicaStatus

__all__ = ["UNREACHABLE", "RemoteServer"]

UNREACHABLE = "server_unreachable"
"""Code of the errors that say that no answer came; asking again may help."""

# Bytes may take as long as they take; silence may not.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
# By name, so that batches which were made through another dialect come in this shape too.
_ROOT = "/together/v1"
_RESULT_SILENCE_S = 600
_PIECE_BYTES = 1 << 18
_Object = dict[str, Any]


class RemoteServer:
    """One server at a URL, with or without /v1; an async context manager.

    Every call raises BackfillError: with the server's own words and code if it answers with an error, with the code
    `UNREACHABLE` if no answer comes.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            message = f"The server's URL must begin with http:// or https://; got {url!r}."
            raise InvalidInput(message, param="url")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._has_key = bool(api_key)
        self._session = aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def upload(self, path: Path) -> _Object:
        """Send a file, streamed from disk; gives the file object."""
        try:
            source = path.open("rb")
        except OSError as error:
            message = f"The input file {path} cannot be read: {error.strerror}."
            raise InvalidInput(message, param="input") from None
        with source:
            form = aiohttp.FormData({"purpose": "batch-api"})
            form.add_field("file", source, filename=path.name, content_type="application/jsonl")
            return cast("_Object", await self._ask("POST", "/files", data=form))

    async def create_batch(self, **members: str | None) -> _Object:
        """Make a batch; gives the batch object. Members that are None are left out."""
        given = {name: value for name, value in members.items() if value is not None}
        return cast("_Object", (await self._ask("POST", "/batches", json=given))["job"])

    async def get_batch(self, batch_id: str) -> _Object:
        """The batch object."""
        return cast("_Object", await self._ask("GET", f"/batches/{_quote(batch_id)}"))

    async def list_batches(self) -> list[_Object]:
        """All batches of this key, newest first."""
        return cast("list[_Object]", await self._ask("GET", "/batches"))

    async def list_engines(self) -> list[ReplicaStatus]:
        """Every replica that lines are sent to."""
        page = await self._ask("GET", "/engines")
        try:
            return msgspec.convert(page["data"], list[ReplicaStatus])
        except (msgspec.ValidationError, KeyError, TypeError):
            raise self._is_no_backfill() from None

    async def cancel_batch(self, batch_id: str) -> _Object:
        """Stop a batch; gives the batch object."""
        return cast("_Object", await self._ask("POST", f"/batches/{_quote(batch_id)}/cancel"))

    async def download(self, file_id: str, target: BinaryIO) -> None:
        """Write a file's bytes to `target` as they come."""
        async with self._open("GET", f"/files/{_quote(file_id)}/content") as response:
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                target.write(piece)

    async def stream_results(self, batch_id: str, *, after: int) -> AsyncIterator[bytes]:
        """The result lines behind the first `after`, as they finish; a line that was cut off is left out."""
        path = f"/batches/{_quote(batch_id)}/results"
        # A batch may wait for hours without a line; a dead peer shows at the next question about the batch.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_RESULT_SILENCE_S)
        rest = b""
        async with self._open("GET", path, params={"after": after}, timeout=timeout) as response:
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        async with self._open(method, path, **request) as response:
            body = await response.read()
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            raise self._is_no_backfill() from None

    def _is_no_backfill(self) -> BackfillError:
        message = f"{self.url} does not answer as a Backfill server of this version does."
        return BackfillError(message, code="not_a_backfill_server")

    @asynccontextmanager
    async def _open(self, method: str, path: str, **request: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self.url + _ROOT + path, **request) as response:
                if response.status >= 400:
                    raise self._interpret(response.status, await response.read())
                yield response
        except aiohttp.ClientConnectorError:
            message = (
                f"Nothing answers at {self.url}; is `backfill serve` running? --url or BACKFILL_URL names another."
            )
            raise BackfillError(message, code=UNREACHABLE) from None
        except aiohttp.InvalidURL:
            message = f"{self.url!r} is not a URL."
            raise InvalidInput(message, param="url") from None
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            message = f"The connection to {self.url} was lost: {str(error) or type(error).__name__}."
            raise BackfillError(message, code=UNREACHABLE) from None

    def _interpret(self, status: int, body: bytes) -> BackfillError:
        """The server's own words, from the error object that every answer of its has."""
        try:
            error = msgspec.json.decode(body)["error"]
            message, code, param = str(error["message"]), error.get("code"), error.get("param")
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            message, code, param = f"{self.url} answers with HTTP {status} and no reason.", None, None
        if status == 401 and not self._has_key:
            message += " BACKFILL_API_KEY or --api-key-env gives one."
        return BackfillError(message, code=code or f"http_{status}", param=param)


def _quote(identity: str) -> str:
    """An id as one part of a path; no id of a server has anything else in it."""
    if not identity.replace("-", "").replace("_", "").isalnum():
        message = f"{identity!r} is not an id."
        raise InvalidInput(message)
    return identity
