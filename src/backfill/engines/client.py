"""The one way a request goes to an engine: HTTP by aiohttp, with every end it can take turned into a reply."""

import asyncio
import io
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from backfill.engines.audio_answer import interpret_audio
from backfill.engines.audio_form import find_timeout_s, make_form
from backfill.engines.forwarding import FORWARD_TIMEOUT, NOT_SENT, StreamedAnswer, WholeAnswer
from backfill.engines.interpret import interpret, refuse
from backfill.engines.reply import Answered, Lost, LostReason, Reply
from backfill.errors import EngineUnavailable, StoreUnavailable
from backfill.media_file import MediaFile
from backfill.wire import DEFAULT_AUDIO_FORMAT, find_audio_problem, list_form_fields

__all__ = ["ANSWER_SIZE_MAX_BYTES", "EngineClient"]

ANSWER_SIZE_MAX_BYTES: Final = 64 * 1024 * 1024
# Of lists of models and of metrics, which are read again and again: vLLM's are some 100 KiB.
_PROBE_SIZE_MAX_BYTES: Final = 4 * 1024 * 1024
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
    """The answer is larger than so many bytes."""

    def __init__(self, size_max_bytes: int) -> None:
        super().__init__(f"The engine's answer is larger than {size_max_bytes} bytes.")


class EngineClient:
    """Sends requests over kept-alive connections, any number at a time.

    Every call may take `request_timeout_s` seconds from start to end. All calls have the same limit, so the one that
    began first is the first to run out, and a single timer set to it serves them all.
    """

    def __init__(self, request_timeout_s: float, connect_timeout_s: float = _CONNECT_TIMEOUT_S) -> None:
        self._request_timeout_s = request_timeout_s
        self._connect_timeout_s = connect_timeout_s
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

    async def send(  # noqa: PLR0913 - all that a request may need
        self,
        url: URL,
        endpoint: str,
        headers: Mapping[str, str],
        body: bytes,
        on_headers: Callable[[], None] | None = None,
        attachment: MediaFile | None = None,
        *,
        gather: Callable[[bytes], bytes] | None = None,
    ) -> Reply:
        """POST a JSON body and wait for the reply; raises nothing but CancelledError, which closes the connection.

        `endpoint` says what a result looks like, wherever the URL has it. With an `attachment`, which must be there,
        the body is sent as a form that has it as `file`, and the time limit grows with its length.
        `on_headers` is called once the status of a 2xx answer is here, which may be before its body. `gather` makes
        the result of what then came, such as the events of a stream.
        """
        if attachment is not None:
            return await self._send_form(url, endpoint, headers, body, on_headers, attachment)
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
        if gather is not None and 200 <= status < 300:
            answer = gather(answer)
        reply = interpret(endpoint, status, answer_headers, answer)
        if isinstance(reply, Answered):
            return reply
        shown = _hide_key(answer, headers)
        return reply if shown == answer else interpret(endpoint, status, answer_headers, shown)

    async def forward(self, url: URL, headers: Mapping[str, str], body: bytes) -> StreamedAnswer | WholeAnswer:
        """POST a JSON body and hand on the answer as it comes, whatever it is; the caller closes it.

        Raises:
            EngineUnavailable: there is none: its code is `NOT_SENT` if the engine was not reached, or refuses the
                key or the address that it is called by.

        """
        session = self._session or self._open()
        data = body if len(body) <= _LARGE_BODY_BYTES else io.BytesIO(body)
        try:
            response = await session.post(
                url,
                data=data,
                headers={**headers, "Accept": "*/*"},
                allow_redirects=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._request_timeout_s, sock_connect=self._connect_timeout_s),
            )
        except TimeoutError as error:
            is_connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            message = f"No answer from {_origin(url)} in time."
            raise EngineUnavailable(message, code=NOT_SENT if is_connecting else FORWARD_TIMEOUT) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            lost = _interpret_failure(error, url)
            raise EngineUnavailable(lost.message, code=NOT_SENT if lost.never_sent else lost.reason.value) from None
        answer = StreamedAnswer(response)
        if answer.status < 300:
            return answer
        return await _forward_error(answer, url, headers)

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
                return response.status, await _read(response, _PROBE_SIZE_MAX_BYTES)
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
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
        )
        return self._session

    async def _exchange(
        self,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | aiohttp.MultipartWriter,
        on_headers: Callable[[], None] | None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        session = self._session or self._open()
        data = io.BytesIO(body) if isinstance(body, bytes) and len(body) > _LARGE_BODY_BYTES else body
        async with session.post(url, data=data, headers=headers, allow_redirects=False) as response:
            if on_headers is not None and response.status < 300:
                on_headers()
            return response.status, response.headers, await _read(response, ANSWER_SIZE_MAX_BYTES)

    async def _send_form(
        self,
        url: URL,
        endpoint: str,
        headers: Mapping[str, str],
        body: bytes,
        on_headers: Callable[[], None] | None,
        clip: MediaFile,
    ) -> Reply:
        problem = find_audio_problem(body)
        if problem is not None:
            return refuse(problem.message, param=problem.param, code=problem.code)
        fields = list_form_fields(body)
        timeout_s = find_timeout_s(self._request_timeout_s, clip)
        with _open_clip(clip) as content:
            form, form_headers = make_form(fields, clip, content)
            try:
                # Not with the other calls: those have one limit, and so one timer.
                async with asyncio.timeout(timeout_s):
                    sent = {**headers, **form_headers}
                    status, answer_headers, answer = await self._exchange(url, sent, form, on_headers)
            except TimeoutError as error:
                if isinstance(error, aiohttp.ConnectionTimeoutError):
                    return _interpret_failure(error, url)
                return Lost(LostReason.TIMEOUT, f"No answer within {timeout_s:g} s.")
            except (aiohttp.ClientError, OSError, _TooLarge, ValueError) as error:
                return _interpret_failure(error, url)
        asked = dict(fields).get("response_format", DEFAULT_AUDIO_FORMAT)
        reply = interpret_audio(endpoint, status, answer_headers, answer, asked=asked, clip=clip)
        if isinstance(reply, Answered):
            return reply
        shown = _hide_key(answer, headers)
        return interpret_audio(endpoint, status, answer_headers, shown, asked=asked, clip=clip)

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


def _open_clip(clip: MediaFile) -> io.BufferedReader:
    try:
        return clip.path.open("rb")
    except OSError as error:
        message = f"A clip that was fetched cannot be read: {error.strerror}."
        raise StoreUnavailable(message) from error


async def _read(response: aiohttp.ClientResponse, size_max_bytes: int) -> bytes:
    length = response.content_length
    if length is not None and length > size_max_bytes:
        response.close()
        raise _TooLarge(size_max_bytes)
    if length is not None and hdrs.CONTENT_ENCODING not in response.headers:
        return await response.read()
    # How much it is shows only while it is read: a thousandth of the limit, compressed, may be more than all of it.
    parts = bytearray()
    while part := await response.content.readany():
        parts += part
        if len(parts) > size_max_bytes:
            response.close()
            raise _TooLarge(size_max_bytes)
    return bytes(parts)


async def _forward_error(answer: StreamedAnswer, url: URL, headers: Mapping[str, str]) -> WholeAnswer:
    """The error as it is, but for our key, and unless it is about our key or our address."""
    try:
        body = bytearray()
        while (part := await answer.read()) and len(body) <= _PROBE_SIZE_MAX_BYTES:
            body += part
    finally:
        answer.close()
    if answer.status < 400 or answer.status in (401, 403):
        message = f"{_origin(url)} answers HTTP {answer.status}: check the URL and the key that are configured for it."
        raise EngineUnavailable(message, code=NOT_SENT)
    kept = tuple(header for header in answer.headers if header[0] != b"content-length")
    return WholeAnswer(answer.status, (_hide_key(bytes(body), headers),), kept)


def _interpret_failure(error: Exception, url: URL) -> Lost:
    where = _origin(url)
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)):
        return Lost(LostReason.UNREACHABLE, f"{where} cannot be reached: {_reason(error)}.")
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Lost(LostReason.TIMEOUT, f"{where} stopped answering.")
    if isinstance(error, _TooLarge):
        return Lost(LostReason.BAD_ANSWER, str(error))
    # aiohttp has three classes for this, and these words in each.
    if isinstance(error, aiohttp.ClientError) and "Can not decode content-encoding" in str(error):
        return Lost(LostReason.BAD_ANSWER, f"{where} compressed its answer in a way that cannot be undone.")
    if isinstance(error, (aiohttp.ClientResponseError, ValueError)):
        return Lost(LostReason.BAD_ANSWER, f"{where} answered something that is not HTTP.")
    return Lost(LostReason.DISCONNECTED, f"{where} closed the connection before the answer was complete.")


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
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
