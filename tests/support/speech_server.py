"""A speech server of somebody else's, and a place that has clips: in a thread of this process, for other processes."""

import asyncio
import io
import json
import threading
import wave
from collections import Counter
from types import TracebackType
from typing import Any, Self

from aiohttp import BodyPartReader, web

__all__ = ["SpeechServer", "make_wave"]

_RATE_HZ = 8000


def make_wave(length_ms: int, mark: int = 0) -> bytes:
    """Silence of that length; no two marks give the same bytes."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE_HZ)
        frames = bytearray(2 * (_RATE_HZ * length_ms // 1000))
        frames[:4] = mark.to_bytes(4, "little")
        file.writeframes(bytes(frames))
    return made.getvalue()


class SpeechServer:
    """Answers the audio endpoints as servers do that differ from each other; a context manager.

    `GET /clips/LENGTH_MS/MARK.wav` gives a clip. A form is answered with how long its clip is, by its header: as OpenAI
    does it, or as `style` says: "vllm" (a duration as text, no usage), "llamacpp" (usage in tokens), "silent" (none).
    """

    def __init__(self, style: str = "openai", delay_s: float = 0.0) -> None:
        self.style = style
        self.delay_s = delay_s
        self.url = ""
        self.forms: list[dict[str, Any]] = []
        """What came, in the order in which it came; lists are lists, the clip is under `file` with its name."""
        self.fetches: Counter[str] = Counter()
        self.refused: set[str] = set()
        """Languages that it does not speak."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._came = threading.Condition()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def link(self, length_ms: int, mark: int) -> str:
        """Where a clip lies; what stands behind the question mark is a secret."""
        return f"{self.url}/clips/{length_ms}/{mark}.wav?signature=secret"

    def wait_for(self, forms: int, timeout_s: float = 30.0) -> None:
        """Return once so many have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.forms) >= forms, timeout_s), len(self.forms)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/clips/{length}/{mark}.wav", self._give)
        app.router.add_post("/v1/audio/{task}", self._hear)
        app.router.add_get("/{any:.*}", self._tell)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def _give(self, request: web.Request) -> web.Response:
        self.fetches[request.path] += 1
        made = make_wave(int(request.match_info["length"]), int(request.match_info["mark"]))
        return web.Response(body=made, content_type="audio/wav")

    async def _hear(self, request: web.Request) -> web.Response:
        form = await _read_form(request)
        with self._came:
            self.forms.append(form)
            self._came.notify_all()
        await asyncio.sleep(self.delay_s)
        with wave.open(io.BytesIO(form["file"][1])) as clip:
            seconds = clip.getnframes() / clip.getframerate()
        if form.get("language") in self.refused:
            error = {"message": "Language is not spoken here.", "type": "invalid_request_error", "code": "language"}
            return web.json_response({"error": error}, status=400)
        text = f"{request.match_info['task']} of {seconds:g} s"
        asked = form.get("response_format", "json")
        if asked in ("text", "srt", "vtt"):
            head = {
                "text": "",
                "srt": "1\n00:00:00,000 --> 00:00:01,000\n",
                "vtt": "WEBVTT\n\n00:00.000 --> 00:01.000\n",
            }
            return web.Response(text=f"{head[asked]}{text}\n")
        answer: dict[str, Any] = {"text": text}
        if asked == "verbose_json":
            answer |= {"task": "transcribe", "language": "english", "duration": seconds, "segments": [], "words": None}
        answer |= self._measure(seconds)
        return web.Response(text=json.dumps(answer, indent=1), content_type="application/json")

    def _measure(self, seconds: float) -> dict[str, Any]:
        if self.style == "vllm":
            return {"duration": str(seconds)}
        if self.style == "llamacpp":
            return {"usage": {"type": "tokens", "input_tokens": 9, "output_tokens": 4, "total_tokens": 13}}
        return {} if self.style == "silent" else {"usage": {"type": "duration", "seconds": seconds}}


async def _read_form(request: web.Request) -> dict[str, Any]:
    form: dict[str, Any] = {}
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        name = part.name or ""
        if name == "file":
            form[name] = (part.filename, bytes(await part.read()))
        elif name.endswith("[]"):
            form.setdefault(name.removesuffix("[]"), []).append(await part.text())
        else:
            form[name] = await part.text()
    return form
