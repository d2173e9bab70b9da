"""The one way a request goes to an engine: HTTP by aiohttp, with every end it can take turned into a reply."""

import asyncio
import io
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from backfill.engines.interpret import interpret
from backfill.engines.reply import Lost, LostReason, Reply
from backfill.errors import EngineUnavailable

__all__ = ["ANSWER_SIZE_MAX_BYTES", "EngineClient"]

ANSWER_SIZE_MAX_BYTES: Final = 64 * 1024 * 1024
_CONNECT_TIMEOUT_S = 10.0
# Below the 5 s after which uvicorn (vLLM, SGLang) and llama.cpp close an idle connection: a request is not sent into
# one that the engine is just closing.
_KEEP_ALIVE_S = 4.0
# Above this aiohttp wants a file-like body, or it warns that one big write may hold up the loop.
_LARGE_BODY_BYTES = 1024 * 1024
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    # Answers come from near by: compressing them would only cost both sides time.
    "Accept-Encoding": "identity",
    "User-Agent": "backfill",
}


class _TooLarge(Exception):
    """The answer is larger than `ANSWER_SIZE_MAX_BYTES`."""


class EngineClient:
    """Sends requests over kept-alive connections, any number at a time.

    Every call may take `request_timeout_s` seconds from start to end. All calls have the same limit, so the one that
    began first is the first to run out, and a single timer set to it serves them all.
    """

    def __init__(self, request_timeout_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        self._session: aiohttp.ClientSession | None = None
        # In the order of their deadlines (loop time), because dicts keep the order of insertion.
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self, url: URL, headers: Mapping[str, str], body: bytes, on_headers: Callable[[], None] | None = None
    ) -> Reply:
        """POST a JSON body and wait for the reply; raises nothing but CancelledError, which closes the connection.

        `on_headers` is called once the status of a 2xx answer is here, which may be before its body.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            message = "send() must be awaited in a task"
            raise RuntimeError(message)
        cancels = task.cancelling()
        self._deadlines[task] = deadline = loop.time() + self._request_timeout_s
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire, loop)
        try:
            status, answer_headers, answer = await self._exchange(url, headers, body, on_headers)
        except asyncio.CancelledError:
            if task in self._deadlines or task.cancelling() > cancels + 1:
                raise  # somebody else's cancel, or somebody else's too
            return Lost(LostReason.TIMEOUT, f"No answer within {self._request_timeout_s:g} s.")
        except (aiohttp.ClientError, OSError, _TooLarge, ValueError) as error:
            return _interpret_failure(error, url)
        finally:
            if self._deadlines.pop(task, None) is None:
                task.uncancel()
        if status >= 300:
            answer = _hide_key(answer, headers)
        return interpret(status, answer_headers, answer)

    async def get(self, url: URL, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        """Status and body of a GET, for probes and gauges.

        Raises:
            EngineUnavailable: no HTTP answer came within `timeout_s` seconds; the message says why.

        """
        session = self._session or self._open()
        try:
            async with (
                asyncio.timeout(timeout_s),
                session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, await _read(response)
        except TimeoutError:
            message = f"No answer from {_origin(url)} within {timeout_s:g} s."
        except (aiohttp.ClientError, OSError, _TooLarge, ValueError) as error:
            message = _interpret_failure(error, url).message
        raise EngineUnavailable(message)

    async def close(self) -> None:
        """Close every connection; the next call opens them again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
        )
        return self._session

    async def _exchange(
        self, url: URL, headers: Mapping[str, str], body: bytes, on_headers: Callable[[], None] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        session = self._session or self._open()
        data = body if len(body) <= _LARGE_BODY_BYTES else io.BytesIO(body)
        async with session.post(url, data=data, headers=headers, allow_redirects=False) as response:
            if on_headers is not None and response.status < 300:
                on_headers()
            return response.status, response.headers, await _read(response)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the calls whose time is over, and set the timer to the next."""
        self._timer = None
        now = loop.time()
        for task, deadline in list(self._deadlines.items()):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._expire, loop)
                return
            # Its absence here is what tells `send` that the cancel is ours.
            del self._deadlines[task]
            task.cancel()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None:
        if length > ANSWER_SIZE_MAX_BYTES:
            response.close()
            raise _TooLarge
        return await response.read()
    parts = bytearray()
    while part := await response.content.readany():
        parts += part
        if len(parts) > ANSWER_SIZE_MAX_BYTES:
            response.close()
            raise _TooLarge
    return bytes(parts)


def _interpret_failure(error: Exception, url: URL) -> Lost:
    where = _origin(url)
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)):
        return Lost(LostReason.UNREACHABLE, f"{where} cannot be reached: {_reason(error)}.")
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Lost(LostReason.TIMEOUT, f"{where} stopped answering.")
    if isinstance(error, _TooLarge):
        return Lost(LostReason.BAD_ANSWER, f"The engine's answer is larger than {ANSWER_SIZE_MAX_BYTES} bytes.")
    if isinstance(error, (aiohttp.ClientResponseError, ValueError)):
        return Lost(LostReason.BAD_ANSWER, f"{where} answered something that is not HTTP.")
    return Lost(LostReason.DISCONNECTED, f"{where} closed the connection before the answer was complete.")


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {_CONNECT_TIMEOUT_S:g} s"
    cause = getattr(error, "os_error", error)
    # Of the system's errors asyncio makes "Connect call failed ('127.0.0.1', 1)", which says less than the number.
    number = getattr(cause, "errno", None)
    return (os.strerror(number) if number and number > 0 else str(cause)).strip(" .").lower()


def _origin(url: URL) -> str:
    """The address without user, password, path and query."""
    return f"{url.scheme}://{url.host_port_subcomponent}"


def _hide_key(body: bytes, headers: Mapping[str, str]) -> bytes:
    """An engine may repeat the key it refuses; what it says ends up in logs and error files."""
    key = headers.get("Authorization", "").partition(" ")[2].encode()
    return body.replace(key, b"[key]") if key else body
