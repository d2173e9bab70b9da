"""The speech host with a real model, spawned as its parent spawns it and asked over HTTP."""

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
import msgspec
import numpy as np
import pytest
import pytest_asyncio
from openai.types.audio import Transcription, TranscriptionVerbose

from backfill.engines.host_process import KEY_VARIABLE
from backfill.engines.models.catalogue import ensure_model
from backfill.engines.speech.messages import HostSettings, Ready
from tests.support.speech import SENTENCES, find_words, say, write_wave

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
DEADLINE_S = 90.0
KEY = "the key of this test"
LENGTH_MAX_S, SIZE_MAX_BYTES = 400.0, 20_000_000
MANY = " ".join(SENTENCES)


@contextmanager
def spawned(model: Path, work_dir: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Ready]]:
    settings = HostSettings(
        model=str(model),
        alias="whisper-tiny.en",
        workers=2,
        concurrency=4,
        batch_size=4,
        beam_size=1,
        compute_type="int8",
        work_dir=str(work_dir),
        file_size_max_bytes=SIZE_MAX_BYTES,
        length_max_s=LENGTH_MAX_S,
    )
    command = [sys.executable, "-m", "backfill.engines.speech.host", msgspec.json.encode(settings).decode()]
    environment = os.environ | {KEY_VARIABLE: KEY, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        try:
            yield child, msgspec.json.decode(child.stdout.readline(), type=Ready)
        finally:
            child.kill()


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def ready(models_dir: Path, work_dir: Path) -> Iterator[Ready]:
    with spawned(ensure_model("whisper-tiny.en", models_dir), work_dir) as (_, ready):
        assert not ready.error
        yield ready


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(ready: Ready) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(ready.url, timeout=timeout, headers=headers) as session:
        yield session


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wave(tmp_path_factory.mktemp("clips") / "clip.wav", *say(f"{SENTENCES[0]} {SENTENCES[1]}"))


async def ask(
    session: aiohttp.ClientSession, content: Path | bytes | None, *fields: tuple[str, str], path: str = TRANSCRIPTIONS
) -> tuple[int, str, bytes]:
    form = aiohttp.FormData()
    form.add_field("model", "openai/whisper-large-v3")
    for name, value in fields:
        form.add_field(name, value)
    data = content.open("rb") if isinstance(content, Path) else content
    if data is not None:
        form.add_field("file", data, filename="clip.wav", content_type="application/octet-stream")
    async with session.post(path, data=form) as response:
        return response.status, response.content_type, await response.read()


async def hear(session: aiohttp.ClientSession, content: Path | bytes, *fields: tuple[str, str]) -> Any:
    status, _, body = await ask(session, content, *fields)
    assert status == 200, body
    return msgspec.json.decode(body)


def encode(source: Path, target: Path, codec: str, rate_hz: int) -> Path:
    with av.open(source) as read, av.open(target, "w") as written:
        stream = written.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate_hz)
        for frame in (*read.decode(audio=0), None):
            for part in resampler.resample(frame):
                written.mux(stream.encode(part))
        written.mux(stream.encode(None))
    return target


def share_of_words(spoken: str, heard: str) -> float:
    wanted, found = find_words(spoken), find_words(heard)
    return sum(min(wanted.count(word), found.count(word)) for word in set(wanted)) / len(wanted)


async def test_what_is_said_is_written_down(session: aiohttp.ClientSession, clip: Path) -> None:
    answer = await hear(session, clip)
    assert share_of_words(f"{SENTENCES[0]} {SENTENCES[1]}", answer["text"]) > 0.9
    assert answer["model"] == "whisper-tiny.en"
    assert answer["usage"] == {"type": "duration", "seconds": 9}
    assert Transcription.model_validate(answer).text == answer["text"]


async def test_the_five_forms(session: aiohttp.ClientSession, clip: Path) -> None:
    forms = ("text", "srt", "vtt", "verbose_json")
    answers = await asyncio.gather(*(ask(session, clip, ("response_format", form)) for form in forms))
    assert [status for status, _, _ in answers] == [200] * 4
    (_, kind, text), (_, _, srt), (_, vtt_kind, vtt), (_, _, verbose) = answers
    assert (kind, vtt_kind) == ("text/plain", "text/vtt")
    assert "Thursday" in text.decode()
    cue = r"\d\d:\d\d:\d\d{0}\d{{3}} --> \d\d:\d\d:\d\d{0}\d{{3}}\n\S.*\n\n"
    assert re.fullmatch(f"(\\d+\n{cue.format(',')})+", srt.decode())
    assert re.fullmatch(f"WEBVTT\n\n({cue.format('[.]')})+", vtt.decode())
    parsed = TranscriptionVerbose.model_validate_json(verbose)
    assert (parsed.language, parsed.words) == ("en", None)
    assert parsed.segments is not None
    assert "".join(segment.text for segment in parsed.segments).strip() == parsed.text
    times = [time for segment in parsed.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= parsed.duration + 0.01


async def test_words_have_times_where_they_are_asked_for(session: aiohttp.ClientSession, clip: Path) -> None:
    fields = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")]
    alone = await hear(session, clip, *fields)
    assert "segments" not in alone
    assert find_words(" ".join(word["word"] for word in alone["words"])) == find_words(alone["text"])
    times = [time for word in alone["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= alone["duration"]
    both = await hear(session, clip, *fields, ("timestamp_granularities[]", "segment"))
    assert both["segments"]
    assert both["words"]


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mp3", "libmp3lame", 44_100),
        ("a.m4a", "aac", 22_050),
        ("a.webm", "libopus", 48_000),
        ("a.flac", "flac", 8000),
    ],
)
async def test_formats(session: aiohttp.ClientSession, clip: Path, name: str, codec: str, rate_hz: int) -> None:
    answer = await hear(session, encode(clip, clip.with_name(name), codec, rate_hz))
    assert share_of_words(f"{SENTENCES[0]} {SENTENCES[1]}", answer["text"]) > 0.8
    assert answer["usage"]["seconds"] == 9


async def test_a_long_clip_is_heard_in_pieces_at_their_true_times(
    session: aiohttp.ClientSession, tmp_path: Path, work_dir: Path
) -> None:
    samples, rate_hz = say(MANY)
    silence = np.zeros(60 * rate_hz, np.int16)
    path = write_wave(tmp_path / "long.wav", np.concatenate([samples, silence, samples, silence, samples]), rate_hz)
    answer = await hear(session, path, ("response_format", "verbose_json"))
    assert share_of_words(f"{MANY} {MANY} {MANY}", answer["text"]) > 0.85
    starts = [segment["start"] for segment in answer["segments"]]
    assert starts == sorted(starts)
    length_s = len(samples) / rate_hz
    for number in range(3):
        # Within a second of where each reading begins, however much was cut out before it.
        assert min(abs(start - number * (length_s + 60)) for start in starts) < 1.0
    assert answer["usage"]["seconds"] == pytest.approx(3 * length_s + 120, abs=1)
    assert os.listdir(work_dir) == []  # noqa: PTH208 - an async function


async def test_silence_is_nothing(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = write_wave(tmp_path / "silence.wav", np.zeros(16_000 * 5, np.int16), 16_000)
    answer = await hear(session, path, ("response_format", "verbose_json"))
    assert (answer["text"], answer["segments"], answer["duration"]) == ("", [], 5.0)


def make_bad(kind: str, clip: Path) -> bytes:
    match kind:
        case "empty":
            return b""
        case "noise":
            return bytes(range(256)) * 40
        case "head only":
            return clip.read_bytes()[:44]
        case "list of parts":
            return f"ffconcat version 1.0\nfile {clip.name}\n".encode()
        case "playlist":
            return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n".encode()
        case _:
            return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"


@pytest.mark.parametrize("kind", ["empty", "noise", "head only", "list of parts", "playlist", "picture"])
async def test_what_is_no_audio_is_refused(session: aiohttp.ClientSession, clip: Path, kind: str) -> None:
    status, _, body = await ask(session, make_bad(kind, clip))
    error = msgspec.json.decode(body)["error"]
    assert (status, error["param"], error["type"]) == (400, "file", "invalid_request_error")
    assert "Errno" not in error["message"]


@pytest.mark.parametrize(
    ("field", "param", "words"),
    [
        (("response_format", "xml"), "response_format", "one of json, text, srt, verbose_json, vtt"),
        (("temperature", "1.5"), "temperature", "from 0 to 1"),
        (("temperature", "nan"), "temperature", "from 0 to 1"),
        (("language", "xx"), "language", "code that Whisper knows"),
        (("language", "de"), "language", "English only"),
        (("timestamp_granularities[]", "word"), "timestamp_granularities", "verbose_json"),
        (("timestamp_granularities[]", "letter"), "timestamp_granularities", "segment, word"),
        (("stream", "true"), "stream", "false"),
        (("top_p", "0.5"), "top_p", "no field"),
        (("model", "other"), "model", "more than once"),
        (("prompt", "a" * 20_000), "prompt", "10000 are allowed"),
    ],
)
async def test_a_wrong_field_is_refused(
    session: aiohttp.ClientSession, clip: Path, field: tuple[str, str], param: str, words: str
) -> None:
    status, _, body = await ask(session, clip, field)
    error = msgspec.json.decode(body)["error"]
    assert (status, error["param"]) == (400, param)
    assert words in error["message"]


async def test_forms_that_are_none(session: aiohttp.ClientSession, clip: Path) -> None:
    status, _, body = await ask(session, None)
    assert (status, msgspec.json.decode(body)["error"]["param"]) == (400, "file")
    async with session.post(TRANSCRIPTIONS, json={"file": "a"}) as response:
        assert response.status == 400
    cut = b'--a\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbytes'
    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    async with session.post(TRANSCRIPTIONS, data=cut, headers=headers) as response:
        assert response.status == 400, await response.read()
    status, _, body = await ask(session, clip, path=TRANSLATIONS)
    assert (status, msgspec.json.decode(body)["error"]["param"]) == (400, "model")


async def test_what_is_too_large_or_too_long_is_refused(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(SIZE_MAX_BYTES + 1)
    status, _, body = await ask(session, large)
    assert status == 400
    assert "media.audio_size_bytes" in msgspec.json.decode(body)["error"]["message"]
    long = write_wave(tmp_path / "long.wav", np.zeros(int(8000 * (LENGTH_MAX_S + 1)), np.int16), 8000)
    status, _, body = await ask(session, long)
    assert status == 400
    assert "media.audio_length_s" in msgspec.json.decode(body)["error"]["message"]


async def test_a_damaged_file_is_heard_as_far_as_it_goes(session: aiohttp.ClientSession, clip: Path) -> None:
    whole = bytearray(encode(clip, clip.with_name("whole.mp3"), "libmp3lame", 22_050).read_bytes())
    # In the pause between the sentences, and the same each time: what a model makes of noise in a word, nobody knows.
    pause = int(len(whole) * 0.445)
    whole[pause : pause + 1400] = random.Random(1).randbytes(1400)
    answer = await hear(session, bytes(whole))
    assert {"train", "station", "thursday"} <= set(find_words(answer["text"]))


async def test_a_key_is_needed(ready: Ready, clip: Path) -> None:
    async with aiohttp.ClientSession(ready.url) as session:
        assert (await ask(session, clip))[0] == 401
        async with session.get("/health") as response:
            assert response.status == 200
        async with session.get("/metrics") as response:
            assert response.status == 401


async def test_who_hangs_up_is_worked_for_no_longer(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    samples, rate_hz = say(MANY)
    path = write_wave(tmp_path / "long.wav", np.tile(samples, 14), rate_hz)
    call = asyncio.create_task(ask(session, path))
    await until_gauge(session, running=1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_gauge(session, running=0)


async def until_gauge(session: aiohttp.ClientSession, running: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with session.get("/metrics") as response:
                if f"speech:requests_running {running}\n" in await response.text():
                    return
            await asyncio.sleep(0.02)


async def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"no model")
    with spawned(tmp_path, tmp_path) as (child, ready):
        assert "model" in ready.error
        assert child.wait(DEADLINE_S) == 1


async def test_it_ends_with_its_parent(models_dir: Path, tmp_path: Path) -> None:
    with spawned(ensure_model("whisper-tiny.en", models_dir), tmp_path) as (child, ready):
        assert ready.url
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(DEADLINE_S) == 0
