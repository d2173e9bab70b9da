"""The speech engine as the server uses it: clips in, transcripts out, and the death of its process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from backfill.batch import Usage
from backfill.config import MediaConfig, SpeechEngineConfig
from backfill.engines import Answered, EngineClient, Lost, LostReason, Refused, SpeechReplica
from backfill.engines.speech import replica as speech_replica
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile
from tests.support.speech import SENTENCES, as_media, find_words, say, write_wave

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

TRANSCRIPTIONS = "/v1/audio/transcriptions"
DEADLINE_S = 60.0
Make = Callable[..., SpeechReplica]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def make(engine_client: EngineClient, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make_replica(**settings: Any) -> SpeechReplica:
        config = SpeechEngineConfig(**{"model": "whisper-tiny.en", "workers": 1, "beam_size": 1} | settings)
        places = {"models_dir": models_dir, "log_dir": tmp_path_factory.mktemp("log")}
        return SpeechReplica("local-audio", config, engine_client, media=MediaConfig(), **places)

    return make_replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(make: Make) -> AsyncIterator[SpeechReplica]:
    replica = make()
    await replica.start()
    yield replica
    await replica.stop()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> MediaFile:
    return as_media(write_wave(tmp_path_factory.mktemp("clips") / "clip.wav", *say(SENTENCES[1])))


def body(**members: object) -> bytes:
    return msgspec.json.encode({"model": "openai/whisper-large-v3", "file": "https://a/clip.wav"} | members)


async def test_a_clip_is_heard(replica: SpeechReplica, clip: MediaFile) -> None:
    reply = await replica.send(TRANSCRIPTIONS, body(), attachment=clip)
    assert isinstance(reply, Answered), reply
    answer = msgspec.json.decode(reply.body)
    assert {"please", "blue", "folder", "papers", "meeting", "thursday"} <= set(find_words(answer["text"]))
    assert answer["model"] == "whisper-tiny.en"
    assert reply.usage == Usage(audio_ms=5000)


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
async def test_an_answer_that_is_text_says_which_model_it_was_too(
    replica: SpeechReplica, clip: MediaFile, form: str
) -> None:
    reply = await replica.send(TRANSCRIPTIONS, body(response_format=form), attachment=clip)
    assert isinstance(reply, Answered), reply
    answer = msgspec.json.decode(reply.body)
    assert answer["model"] == "whisper-tiny.en"
    assert "Thursday" in answer["text"]


async def test_words_and_segments_by_the_members_of_a_line(replica: SpeechReplica, clip: MediaFile) -> None:
    line = body(response_format="verbose_json", timestamp_granularities=["word", "segment"], language="en", prompt="A")
    reply = await replica.send(TRANSCRIPTIONS, line, attachment=clip)
    assert isinstance(reply, Answered), reply
    answer = msgspec.json.decode(reply.body)
    assert answer["words"]
    assert answer["segments"]


async def test_what_it_cannot_do_is_refused(replica: SpeechReplica, clip: MediaFile, tmp_path: Path) -> None:
    for endpoint, line, attachment in (
        ("/v1/chat/completions", body(), clip),
        (TRANSCRIPTIONS, body(), None),
        (TRANSCRIPTIONS, body(language="de"), clip),
        ("/v1/audio/translations", body(), clip),
        (TRANSCRIPTIONS, body(seed=1), clip),
    ):
        assert isinstance(await replica.send(endpoint, line, attachment=attachment), Refused)
    text = tmp_path / "clip.mp3"
    text.write_text("<html>not found</html>")
    reply = await replica.send(TRANSCRIPTIONS, body(), attachment=as_media(text))
    assert isinstance(reply, Refused)
    assert msgspec.json.decode(reply.body)["error"]["param"] == "file"


async def test_killed_in_mid_clip_it_is_started_again(make: Make, tmp_path: Path, clip: MediaFile) -> None:
    replica = make()
    await replica.start()
    killed = replica.pid
    assert killed is not None
    samples, rate_hz = say(" ".join(SENTENCES))
    long = as_media(write_wave(tmp_path / "long.wav", np.tile(samples, 12), rate_hz))
    call = asyncio.create_task(replica.send(TRANSCRIPTIONS, body(), attachment=long))
    async with asyncio.timeout(DEADLINE_S):
        while (await replica.read_gauges()).running != 1:
            await asyncio.sleep(0.02)
    os.kill(killed, signal.SIGKILL)
    lost = await call
    assert isinstance(lost, Lost)
    assert lost.reason is LostReason.DISCONNECTED
    assert lost.engine_ended
    async with asyncio.timeout(DEADLINE_S):
        while replica.address is not None:
            await asyncio.sleep(0.02)
    await replica.start()
    assert replica.pid != killed
    assert isinstance(await replica.send(TRANSCRIPTIONS, body(), attachment=clip), Answered)
    await replica.stop()
    assert replica.pid is None


async def test_without_the_extra_it_says_how_to_get_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_replica, "is_installed", lambda: False)
    with pytest.raises(EngineUnavailable, match=r'pip install "backfill\[audio\]"'):
        await make().start()


async def test_a_model_of_another_kind(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(EngineUnavailable, match="CTranslate2"):
        await make(model=str(tmp_path / "a.gguf")).start()
