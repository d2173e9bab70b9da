"""Requests to a running server, over the same API that the SDKs use."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import aiohttp
import msgspec

from backfill.cli.problems import name_unreadable
from backfill.errors import BackfillError, InvalidInput
from backfill.status import ReplicaStatus

__all__ = ["UNREACHABLE", "RemoteServer"]

UNREACHABLE = "server_unreachable"
"""Code of the errors that say that no answer came; asking again may help."""

# Bytes may take as long as they take; silence may not.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
# By name, so that batches which were made through another dialect come in this shape too.
_ROOT = "/together/v1"
_KEYS = "/organization/admin_api_keys"
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

    async def find_limits(self) -> _Object | None:
        """What one file may hold: `lines`, `file_size_bytes`, `custom_id_length`; None: the server does not say."""
        return cast("_Object", await self._ask("GET", "/whoami")).get("limits")

    async def upload(self, path: Path) -> _Object:
        """Send a file, streamed from disk; gives the file object."""
        try:
            source = path.open("rb")
        except OSError as error:
            raise name_unreadable(path, error) from None
        with source:
            form = aiohttp.FormData({"purpose": "batch-api"})
            form.add_field("file", source, filename=path.name, content_type="application/jsonl")
            return cast("_Object", await self._ask("POST", "/files", data=form))

    async def upload_pieces(self, filename: str, pieces: Iterable[bytes], sha256: str) -> _Object:
        """Send a file as its pieces come; gives the file object. Other bytes than those of the digest are refused."""

        async def send() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        form = aiohttp.FormData({"purpose": "batch-api", "checksum": sha256})
        form.add_field("file", send(), filename=filename, content_type="application/jsonl")
        return cast("_Object", await self._ask("POST", "/files", data=form))

    async def delete_file(self, file_id: str) -> None:
        """Remove a file."""
        await self._ask("DELETE", f"/files/{_quote(file_id)}")

    async def create_batch(
        self,
        members: Mapping[str, str | None],
        *,
        idempotency_key: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[_Object, str | None]:
        """Make a batch; gives the batch object and a warning, if there is one. Members that are None are left out.

        With the same key and members it is made once, however often that is asked for.
        """
        given: _Object = {name: value for name, value in members.items() if value is not None}
        if metadata:
            given["metadata"] = metadata
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        created = await self._ask("POST", "/batches", json=given, headers=headers)
        return cast("_Object", created["job"]), created.get("warning")

    async def estimate(self, wanted: _Object) -> _Object:
        """What a batch would cost, and when it would be done."""
        return cast("_Object", await self._ask("POST", "/estimates", json=wanted))

    async def get_batch(self, batch_id: str) -> _Object:
        """The batch object."""
        return cast("_Object", await self._ask("GET", f"/batches/{_quote(batch_id)}"))

    async def list_batches(self) -> list[_Object]:
        """All batches of this key, newest first."""
        return cast("list[_Object]", await self._ask("GET", "/batches"))

    async def list_group(self, group_id: str) -> list[_Object]:
        """The batches whose metadata name this group, newest first."""
        return cast("list[_Object]", await self._ask("GET", "/batches", params={"group": group_id}))

    async def list_newest_batches(self, limit: int) -> list[_Object]:
        """So many of them at most, newest first, in OpenAI's shape: Together's list is always whole."""
        page = await self._ask("GET", "/batches", root="/openai/v1", params={"limit": limit})
        return cast("list[_Object]", page["data"])

    async def list_engines(self) -> list[ReplicaStatus]:
        """Every replica that lines are sent to."""
        page = await self._ask("GET", "/engines")
        try:
            return msgspec.convert(page["data"], list[ReplicaStatus])
        except (msgspec.ValidationError, KeyError, TypeError):
            raise self._is_no_backfill() from None

    async def get_usage(self, query: dict[str, str]) -> _Object:
        """Sums over what was used, as `GET /v1/usage` has them."""
        return cast("_Object", await self._ask("GET", "/usage", params=query))

    async def cancel_batch(self, batch_id: str) -> _Object:
        """Stop a batch; gives the batch object."""
        return cast("_Object", await self._ask("POST", f"/batches/{_quote(batch_id)}/cancel"))

    async def pause_batch(self, batch_id: str) -> _Object:
        """Send nothing more of a batch for now; gives the batch object."""
        return cast("_Object", await self._ask("POST", f"/batches/{_quote(batch_id)}/pause"))

    async def resume_batch(self, batch_id: str) -> _Object:
        """Go on with a batch; gives the batch object."""
        return cast("_Object", await self._ask("POST", f"/batches/{_quote(batch_id)}/resume"))

    async def get_webhook_secret(self) -> str:
        """With what messages to the own addresses of batches are signed."""
        return cast("str", (await self._ask("GET", "/webhooks/secret"))["secret"])

    async def list_failures(self, batch_id: str) -> list[_Object]:
        """The failed requests of a batch by reason, most first."""
        page = await self._ask("GET", f"/batches/{_quote(batch_id)}/failures")
        return cast("list[_Object]", page["data"])

    async def retry_batch(
        self, batch_id: str, metadata: dict[str, str] | None = None, **choice: str | None
    ) -> tuple[_Object, str | None]:
        """Make a batch of what failed, or of those that `code` or `group` mean; as `create_batch`."""
        given: _Object = {name: value for name, value in choice.items() if value is not None}
        if metadata:
            given["metadata"] = metadata
        request = {"json": given} if given else {}
        created = await self._ask("POST", f"/batches/{_quote(batch_id)}/retry", **request)
        return cast("_Object", created["job"]), created.get("warning")

    async def collect(self, *, is_trial: bool, data_dir: Path | None) -> _Object:
        """Have what is over removed, or only found; of another data directory than `data_dir` nothing."""
        wanted: _Object = {"dry_run": is_trial}
        if data_dir is not None:
            wanted["data_dir"] = str(data_dir)
        return cast("_Object", await self._ask("POST", "/gc", json=wanted))

    async def list_keys(self) -> list[_Object]:
        """All API keys, also those that were revoked, newest first."""
        found: list[_Object] = []
        query = {"limit": "100", "include_revoked": "true"}
        while True:
            page = await self._ask("GET", _KEYS, params=query)
            found += page["data"]
            if not page["has_more"]:
                return found
            query["after"] = page["last_id"]

    async def create_key(self, members: _Object) -> _Object:
        """Make an API key; gives it with `value`."""
        return cast("_Object", await self._ask("POST", _KEYS, json=members))

    async def revoke_key(self, key_id: str) -> None:
        """Let nobody in with an API key any more."""
        await self._ask("DELETE", f"{_KEYS}/{_quote(key_id)}")

    async def download(self, file_id: str, target: BinaryIO) -> None:
        """Write a file's bytes to `target` as they come."""
        async with self._open("GET", f"/files/{_quote(file_id)}/content") as response:
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                target.write(piece)

    async def download_table(self, batch_id: str, form: str, target: BinaryIO) -> None:
        """Write all rows of a batch with what became of them, as `csv` or `parquet`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_RESULT_SILENCE_S)
        path = f"/batches/{_quote(batch_id)}/results"
        async with self._open("GET", path, params={"format": form}, timeout=timeout) as response:
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
    async def _open(
        self, method: str, path: str, *, root: str = _ROOT, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self.url + root + path, **request) as response:
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
        except TimeoutError:
            message = f"{self.url} has said nothing for too long; ask again."
            raise BackfillError(message, code=UNREACHABLE) from None
        except (aiohttp.ClientError, ConnectionError):
            message = f"The connection to {self.url} was lost before the whole answer had come; ask again."
            raise BackfillError(message, code=UNREACHABLE) from None

    def _interpret(self, status: int, body: bytes) -> BackfillError:
        """The server's own words, from the error object that every answer of its has."""
        try:
            error = msgspec.json.decode(body)["error"]
            message, code, param = str(error["message"]), error.get("code"), error.get("param")
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            message, code, param = f"{self.url} answers with HTTP {status} and no reason.", None, None
        if status == 401:
            message += f" BACKFILL_API_KEY or --api-key-env gives {'another' if self._has_key else 'one'}."
        if status == 404 and message.startswith("No such batch"):
            message += " `backfill list` shows those of this key."
        return BackfillError(message, code=code or f"http_{status}", param=param)


def _quote(identity: str) -> str:
    """An id as one part of a path; no id of a server has anything else in it."""
    if not identity.replace("-", "").replace("_", "").isalnum():
        message = f"{identity!r} is not an id."
        raise InvalidInput(message)
    return identity
