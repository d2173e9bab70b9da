"""The HTTP side of the speech host: OpenAI's two audio routes."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, Literal

import msgspec
from aiohttp import BodyPartReader, web

from backfill.engines import host_server
from backfill.engines.host_refusal import Refusal
from backfill.engines.host_server import JSON
from backfill.engines.speech.host.answers import render_answer
from backfill.engines.speech.host.model import Model
from backfill.engines.speech.host.requests import parse_request
from backfill.engines.speech.host.transcription import transcribe
from backfill.engines.speech.host.workers import Workers
from backfill.engines.speech.messages import HostSettings

__all__ = ["make_app"]

_MESSAGE_LENGTH: Final = 300
_PART_BYTES: Final = 256 * 1024
# What a form may hold beside its file.
_FIELD_SIZE_MAX_BYTES: Final = 64 * 1024
_FIELDS_MAX: Final = 64


def make_app(model: Model, settings: HostSettings, key: str) -> web.Application:
    """The routes; all but /health want `key`."""
    # Uploads are counted while they are stored.
    app = host_server.make_app(key, body_size_max_bytes=0, failures=Exception, explain=_explain)
    desk = _Desk(model, settings)
    app.router.add_post("/v1/audio/transcriptions", desk.transcribe)
    app.router.add_post("/v1/audio/translations", desk.translate)
    app.router.add_get("/v1/models", desk.list_models)
    app.router.add_get("/metrics", desk.show_metrics)
    return app


def _explain(error: Exception) -> str:
    """In one line: a foreign library raises what it likes."""
    words = " ".join(str(error).split())[:_MESSAGE_LENGTH]
    return f"The engine failed: {words or type(error).__name__}."


class _Desk:
    """Takes files in and gives transcripts out."""

    def __init__(self, model: Model, settings: HostSettings) -> None:
        self._model = model
        self._settings = settings
        self._workers = Workers(model.hear, settings.workers, settings.batch_size)
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="file")
        self._ahead = settings.workers * settings.batch_size
        self._started_s = int(time.time())
        self._accepted = 0
        self._total = 0

    @property
    def running(self) -> int:
        """Files that are being heard."""
        return min(self._accepted, self._settings.concurrency)

    @property
    def waiting(self) -> int:
        """Files that wait for a place."""
        return self._accepted - self.running

    async def list_models(self, _request: web.Request) -> web.Response:
        """GET /v1/models."""
        entry = {"id": self._settings.alias, "object": "model", "created": self._started_s, "owned_by": "backfill"}
        return web.Response(headers=JSON, body=msgspec.json.encode({"object": "list", "data": [entry]}))

    async def show_metrics(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        rows = [
            ("gauge", "requests_running", "Clips that are being heard.", self.running),
            ("gauge", "requests_waiting", "Clips that wait for a place.", self.waiting),
            ("counter", "requests_total", "Clips that came.", self._total),
        ]
        lines = [
            f"# HELP speech:{name} {text}\n# TYPE speech:{name} {kind}\nspeech:{name} {value}\n"
            for kind, name, text, value in rows
        ]
        return web.Response(text="".join(lines))

    async def transcribe(self, request: web.Request) -> web.Response:
        """POST /v1/audio/transcriptions."""
        return await self._answer(request, "transcribe")

    async def translate(self, request: web.Request) -> web.Response:
        """POST /v1/audio/translations: into English."""
        return await self._answer(request, "translate")

    async def _answer(self, request: web.Request, task: Literal["transcribe", "translate"]) -> web.Response:
        # Without a name: it is gone when it is closed, and when the process ends, however it does.
        with tempfile.TemporaryFile(dir=self._settings.work_dir) as file:
            fields = await _receive(request, file, self._settings.file_size_max_bytes)
            wanted = parse_request(task, fields, is_multilingual=self._model.is_multilingual)
            abandoned = threading.Event()
            self._accepted += 1
            self._total += 1
            work = asyncio.get_running_loop().run_in_executor(
                self._threads,
                lambda: transcribe(
                    file,
                    wanted,
                    self._workers,
                    ahead=self._ahead,
                    abandoned=abandoned,
                    length_max_s=self._settings.length_max_s,
                ),
            )
            try:
                transcript = await asyncio.shield(work)
            except asyncio.CancelledError:
                abandoned.set()
                # The file stays open until its thread has let go of it.
                await asyncio.wait([work])
                work.exception()  # nobody is left to be told
                raise
            finally:
                self._accepted -= 1
        kind, body = render_answer(transcript, wanted, self._settings.alias)
        return web.Response(body=body, content_type=kind, charset="utf-8")


async def _receive(request: web.Request, file: BinaryIO, size_max_bytes: int) -> Mapping[str, Sequence[str]]:
    """The form's fields; its file goes to `file`, which is left at its beginning."""
    if not request.content_type.startswith("multipart/"):
        raise Refusal("The request must be a form: multipart/form-data with a file.", "file")
    fields: dict[str, list[str]] = {}
    has_file = False
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refusal("A form within a form is not taken.")
            if part.name == "file":
                has_file = await _store(part, file, size_max_bytes)
            else:
                fields.setdefault(part.name or "", []).append(await _read_field(part))
            if sum(map(len, fields.values())) > _FIELDS_MAX:
                raise Refusal(f"The form has more than {_FIELDS_MAX} fields.")
    except (ValueError, LookupError) as error:
        raise Refusal(f"The form cannot be read: {error}.") from None
    if not has_file:
        raise Refusal("'file' is missing.", "file")
    return fields


async def _store(part: BodyPartReader, file: BinaryIO, size_max_bytes: int) -> bool:
    file.seek(0)
    file.truncate()
    size = 0
    while data := await part.read_chunk(_PART_BYTES):
        size += len(data)
        # Taken to its end all the same: who is still sending would not hear why it is refused.
        if size <= size_max_bytes:
            await asyncio.to_thread(file.write, data)
    if size > size_max_bytes:
        raise Refusal(f"The file is larger than {size_max_bytes} bytes (media.audio_size_bytes).", "file")
    file.seek(0)
    return True


async def _read_field(part: BodyPartReader) -> str:
    data = bytearray()
    while more := await part.read_chunk(_FIELD_SIZE_MAX_BYTES):
        data += more
        if len(data) > _FIELD_SIZE_MAX_BYTES:
            raise Refusal(f"{part.name!r} is larger than {_FIELD_SIZE_MAX_BYTES} bytes.", part.name)
    return data.decode()
