"""Clips reach engines as parts of a form, and whatever engines answer there is one JSON object with its seconds."""

import asyncio
import json
import math
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from backfill.batch import AUDIO_ENDPOINTS, Usage
from backfill.config import ExternalEngineConfig
from backfill.engines import Answered, EngineClient, ExternalReplica, Lost, LostReason, Refused, Reply
from backfill.engines.audio_answer import interpret_audio
from backfill.engines.audio_form import find_timeout_s
from backfill.errors import StoreUnavailable
from backfill.media_file import MediaFile
from tests.unit.engines.conftest import HANG, ScriptedServer

TRANSCRIPTIONS, TRANSLATIONS = AUDIO_ENDPOINTS
BODY = b'{"model":"m","file":"https://example.com/a.wav?key=secret","language":"en","timestamp_granularities":["word"]}'


def make_clip(folder: Path, content: bytes = b"RIFF", *, duration_ms: int | None = 2600) -> MediaFile:
    path = folder / "clip"
    path.write_bytes(content)
    return MediaFile(
        path=path,
        filename="a.wav",
        media_type="audio/wav",
        size_bytes=len(content),
        sha256="",
        duration_ms=duration_ms,
    )


@pytest.fixture
def clip(tmp_path: Path) -> MediaFile:
    return make_clip(tmp_path)


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as opened:
        yield opened


class SpeechServer:
    """Reads forms as servers do, and answers what it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.forms: list[list[tuple[str, str | None, bytes]]] = []
        self.answer: tuple[int, bytes, str] = (200, b'{"text":"hello"}', "application/json")
        self.bytes_read = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 40)
        app.router.add_post("/v1/{rest:.*}", self._serve)
        app.router.add_get("/v1/models", self._list_models)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def _serve(self, request: web.Request) -> web.Response:
        parts = []
        self.length = request.content_length
        async for part in await request.multipart():
            assert isinstance(part, aiohttp.BodyPartReader)
            content = b""
            while piece := await part.read_chunk(1 << 16):
                self.bytes_read += len(piece)
                content = content + piece if self.bytes_read < 1 << 20 else b""
            parts.append((part.name or "", part.filename, content))
        self.forms.append(parts)
        status, body, content_type = self.answer
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})


@pytest_asyncio.fixture
async def speech() -> AsyncIterator[SpeechServer]:
    server = SpeechServer()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def replica(speech: SpeechServer, engine_client: EngineClient) -> ExternalReplica:
    external = ExternalReplica("speech", ExternalEngineConfig(url=speech.url), engine_client)
    await external.start()
    return external


async def test_a_line_is_a_form_with_its_clip(replica: ExternalReplica, speech: SpeechServer, clip: MediaFile) -> None:
    reply = await replica.send(TRANSCRIPTIONS, BODY, attachment=clip)
    assert reply == Answered(200, b'{"text":"hello"}', Usage(audio_ms=2600))
    assert speech.forms == [
        [
            ("model", None, b"m"),
            ("language", None, b"en"),
            ("timestamp_granularities[]", None, b"word"),
            ("file", "a.wav", b"RIFF"),
        ]
    ]
    assert speech.length  # chunked bodies are refused by some servers


async def test_each_try_opens_the_clip_anew(replica: ExternalReplica, speech: SpeechServer, clip: MediaFile) -> None:
    speech.answer = (503, b"busy", "text/plain")
    assert isinstance(await replica.send(TRANSLATIONS, BODY, attachment=clip), Lost)
    speech.answer = (200, b'{"text":"again"}', "application/json")
    assert isinstance(await replica.send(TRANSLATIONS, BODY, attachment=clip), Answered)
    assert [form[-1] for form in speech.forms] == [("file", "a.wav", b"RIFF")] * 2


async def test_a_clip_is_never_held_whole(replica: ExternalReplica, speech: SpeechServer, tmp_path: Path) -> None:
    clip = make_clip(tmp_path, b"")
    size_bytes = 64 << 20
    with clip.path.open("wb") as file:
        file.truncate(size_bytes)
    tracemalloc.start()
    try:
        assert isinstance(await replica.send(TRANSCRIPTIONS, BODY, attachment=clip), Answered)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert speech.bytes_read > size_bytes
    assert peak_bytes < 16 << 20


async def test_a_wrong_request_is_not_sent(replica: ExternalReplica, speech: SpeechServer, clip: MediaFile) -> None:
    reply = await replica.send(TRANSCRIPTIONS, b'{"model":"m","temperature":7}', attachment=clip)
    assert isinstance(reply, Refused)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["param"], error["code"]) == (400, "body.temperature", "invalid_request")
    assert speech.forms == []


async def test_a_clip_that_is_gone_is_no_fault_of_the_engine(replica: ExternalReplica, clip: MediaFile) -> None:
    clip.path.unlink()
    with pytest.raises(StoreUnavailable):
        await replica.send(TRANSCRIPTIONS, BODY, attachment=clip)


async def test_an_engine_that_hangs_up_while_it_is_sent_to(
    server: ScriptedServer, engine_client: EngineClient, clip: MediaFile
) -> None:
    server.answers.append(b"")
    reply = await engine_client.send(server.url, TRANSCRIPTIONS, {}, BODY, attachment=clip)
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.DISCONNECTED


async def test_a_refusal_that_comes_while_the_clip_is_being_sent(engine_client: EngineClient, tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Said\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n")
        await writer.drain()
        writer.close()

    clip = make_clip(tmp_path, b"x" * (32 << 20))
    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        url = URL.build(scheme="http", host="127.0.0.1", port=port)
        reply = await engine_client.send(url, TRANSCRIPTIONS, {}, BODY, attachment=clip)
    assert isinstance(reply, Refused)
    assert json.loads(reply.body)["error"]["message"] == "The engine takes no clip of 33,554,432 bytes: no!"


async def test_a_cancel_closes_the_connection(
    server: ScriptedServer, engine_client: EngineClient, clip: MediaFile
) -> None:
    server.answers.append(HANG)
    call = asyncio.create_task(engine_client.send(server.url, TRANSCRIPTIONS, {}, BODY, attachment=clip))
    await server.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.hung_up.wait()


async def test_the_time_runs_out(server: ScriptedServer, clip: MediaFile) -> None:
    server.answers.append(HANG)
    short = make_clip(clip.path.parent, duration_ms=1)
    async with EngineClient(request_timeout_s=0.05) as impatient:
        reply = await impatient.send(server.url, TRANSCRIPTIONS, {}, BODY, attachment=short)
    assert isinstance(reply, Lost)
    assert (reply.reason, reply.message) == (LostReason.TIMEOUT, "No answer within 0.05 s.")


async def test_an_engine_that_is_not_there(engine_client: EngineClient, clip: MediaFile) -> None:
    async with EngineClient(request_timeout_s=30) as opened:
        replica = ExternalReplica("gone", ExternalEngineConfig(url="http://127.0.0.1:9"), opened)
        reply = await replica.send(TRANSCRIPTIONS, BODY, attachment=clip)
    assert isinstance(reply, Lost)
    assert reply.never_sent


async def test_its_key_is_shown_to_nobody(server: ScriptedServer, engine_client: EngineClient, clip: MediaFile) -> None:
    server.answer(400, b'{"error":{"message":"no: sk-secret"}}')
    headers = {"Authorization": "Bearer sk-secret"}
    reply = await engine_client.send(server.url, TRANSCRIPTIONS, headers, BODY, attachment=clip)
    assert isinstance(reply, Refused)
    assert b"sk-secret" not in reply.body


def test_the_time_grows_with_the_clip(tmp_path: Path) -> None:
    assert find_timeout_s(600, make_clip(tmp_path, duration_ms=10_000)) == 600
    assert find_timeout_s(600, make_clip(tmp_path, duration_ms=4 * 3_600_000)) == 4 * 3600
    unknown = make_clip(tmp_path, b"x" * 4_000_000, duration_ms=None)
    assert find_timeout_s(600, unknown) == 2000


def interpret(
    body: bytes, asked: str = "json", content_type: str = "application/json", status: int = 200, **known: Any
) -> Reply:
    clip = MediaFile(
        path=Path("clip"), filename="a.wav", media_type="audio/wav", size_bytes=9_000_000, sha256="", **known
    )
    headers = {"Content-Type": content_type}
    return interpret_audio(TRANSCRIPTIONS, status, headers, body, asked=asked, clip=clip)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"text":"a","usage":{"type":"duration","seconds":21}}', Usage(audio_ms=21_000)),
        # vLLM writes the duration as text and no usage.
        (b'{"task":"transcribe","language":"en","duration":"20.8","text":"a","segments":[]}', Usage(audio_ms=20_800)),
        (b'{"duration":20.81,"text":"a","words":null}', Usage(audio_ms=20_810)),
        # llama.cpp counts tokens; the length is what was found in the clip.
        (
            b'{"type":"transcript.text.done","text":"a","usage":{"type":"tokens","input_tokens":9,"output_tokens":4}}',
            Usage(9, 4, 0, 5000),
        ),
        # SGLang, where it could not tell.
        (b'{"text":"a","usage":{"seconds":0}}', Usage(audio_ms=5000)),
        (b'{"text":"a","usage":{"type":"duration","seconds":"x"},"duration":-1}', Usage(audio_ms=5000)),
        (b'{"text":"a","usage":7,"duration":1e400}', Usage(audio_ms=5000)),
        (b'{"text":"a","usage":{"seconds":1e300}}', Usage(audio_ms=2**32 - 1)),
        (b'{"text":""}', Usage(audio_ms=5000)),
    ],
)
def test_whatever_says_how_long_it_was_is_understood(body: bytes, usage: Usage) -> None:
    assert interpret(body, duration_ms=5000) == Answered(200, body, usage)


def test_nobody_knows_how_long_it_was() -> None:
    assert interpret(b'{"text":"a"}') == Answered(200, b'{"text":"a"}', Usage())


@pytest.mark.parametrize("asked", ["text", "srt", "vtt"])
@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"Hello, you.\n", "text/plain; charset=utf-8", "Hello, you.\n"),
        (b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", "application/x-subrip", "1\n00:00:00,000 --> 00:00:01,000\nHi\n"),
        (b"", "text/plain", ""),
        (b'"a \\"b\\""', "application/json", 'a "b"'),
        (b'"Yes," she said.', "text/plain", '"Yes," she said.'),
        (b"{} is a pair of braces", "", "{} is a pair of braces"),
        ("grün \ufeff".encode(), "text/plain", "grün \ufeff"),
        (b"\xff half", "text/plain", "\ufffd half"),
    ],
)
def test_text_is_put_into_an_object(asked: str, body: bytes, content_type: str, text: str) -> None:
    reply = interpret(body, asked, content_type, duration_ms=1200)
    assert isinstance(reply, Answered)
    assert json.loads(reply.body) == {"text": text, "usage": {"type": "duration", "seconds": 2}}
    assert b"\n" not in reply.body
    assert reply.usage == Usage(audio_ms=2000)


def test_an_object_that_came_for_text_stays_as_it_is() -> None:
    assert interpret(b'{"text":"a"}', "text") == Answered(200, b'{"text":"a"}', Usage())
    assert json.loads(interpret(b"a", "text", "text/plain").body) == {"text": "a"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "asked", "content_type"),
    [
        (b"Hello", "json", "text/plain"),
        (b"<html>Log in</html>", "text", "text/html"),
        (b'{"words":[]}', "verbose_json", "application/json"),
        (b'{"text":7}', "json", "application/json"),
        (b"", "json", "application/json"),
    ],
)
def test_what_was_not_asked_for_is_no_answer(body: bytes, asked: str, content_type: str) -> None:
    reply = interpret(body, asked, content_type)
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.BAD_ANSWER


def test_an_error_inside_is_one() -> None:
    reply = interpret(b'{"error":{"code":400,"message":"no audio"}}', "text")
    assert isinstance(reply, Refused)
    assert reply.status == 400


def test_a_refusal_for_the_size_says_which() -> None:
    for body in (b'{"error":{"message":"too large"}}', b"<h1>413</h1>", b'{"detail":"no"}', b""):
        reply = interpret(body, status=413)
        assert isinstance(reply, Refused)
        assert "The engine takes no clip of 9,000,000 bytes" in json.loads(reply.body)["error"]["message"]


def test_what_an_engine_never_will_do_is_refused() -> None:
    said = b'{"error":{"code":501,"message":"This model does not support audio input","type":"not_supported_error"}}'
    reply = interpret(said, status=501)
    assert isinstance(reply, Refused)
    assert reply.status == 501


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(TEXTS, st.sampled_from(["text", "srt", "vtt"]), st.none() | st.integers(0, 10**9))
def test_any_text_comes_through_whole(text: str, asked: str, duration_ms: int | None) -> None:
    reply = interpret(text.encode(), asked, "text/plain", duration_ms=duration_ms)
    assert isinstance(reply, Answered)
    found = json.loads(reply.body)
    if not text.lstrip().startswith(("{", '"')):
        assert found["text"] == text
        assert reply.usage.audio_ms == math.ceil((duration_ms or 0) / 1000) * 1000
