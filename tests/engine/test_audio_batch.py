"""Batches of clips on the real speech engine: the way of an upload to results, and deaths in mid-clip."""

import asyncio
import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.audio import Transcription

from backfill.batch import State
from backfill.engines import SpeechReplica
from tests.acceptance.command_line import backfill
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch
from tests.support.speech import SENTENCES, find_words, say, write_wave

pytestmark = pytest.mark.engine

ENDPOINT = "/v1/audio/transcriptions"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "audio.jsonl"
MODEL = "whisper-tiny.en"


def settings(models_dir: Path) -> dict[str, Any]:
    engines = {"local-audio": {"kind": "speech", "model": MODEL, "workers": 1, "batch_size": 2}}
    return {"engines": engines, "models_dir": str(models_dir)}


def as_url(path: Path) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(path.read_bytes()).decode()}"


def make_lines(files: list[str]) -> bytes:
    lines = []
    for number, url in enumerate(files):
        body = {"model": "openai/whisper-large-v3", "file": url}
        lines.append(json.dumps({"custom_id": f"clip-{number}", "method": "FILE", "body": body}))
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [as_url(write_wave(folder / f"{i}.wav", *say(text))) for i, text in enumerate(SENTENCES[:4])]


@pytest.mark.timeout(300)
async def test_the_engine_is_killed_in_mid_clip_and_the_batch_completes(
    tmp_path: Path, models_dir: Path, clips: list[str]
) -> None:
    async with open_house(tmp_path / "data", "", **settings(models_dir)) as rooms:
        (replica,) = rooms.fleet.replicas
        assert isinstance(replica, SpeechReplica)
        samples, rate_hz = say(" ".join(SENTENCES))
        long = as_url(write_wave(tmp_path / "long.wav", np.tile(samples, 3), rate_hz))
        created = await create_batch(rooms, make_lines([long, *clips]), endpoint=ENDPOINT)
        async with asyncio.timeout(120):
            while (await replica.read_gauges()).running != 2:
                await asyncio.sleep(0.02)
        killed = replica.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        batch = await wait_for_batch(rooms, created.id, timeout_s=200)
        assert (batch.state, batch.counts.answered, batch.counts.failed) == (State.COMPLETED, len(clips) + 1, 0)
        assert replica.pid != killed
        lines = [json.loads(line) for line in read_results(rooms, batch.output_file_id)]
    assert [line["custom_id"] for line in lines] == [f"clip-{number}" for number in range(len(clips) + 1)]
    answers = [line["response"]["body"] for line in lines]
    assert {answer["model"] for answer in answers} == {MODEL}
    heard = [Transcription.model_validate(answer).text for answer in answers]
    for text, one in zip(SENTENCES, heard[1:], strict=False):
        assert len(set(find_words(text)) & set(find_words(one))) >= 0.6 * len(set(find_words(text)))
    assert len(find_words(heard[0])) > 0.9 * 3 * len(find_words(" ".join(SENTENCES)))


@pytest.mark.timeout(300)
async def test_a_clip_that_ends_the_engine_every_time_fails_alone(
    tmp_path: Path, models_dir: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file would that breaks a decoder: whenever it is heard, the process is gone."""
    send = SpeechReplica.send

    async def send_or_die(self: SpeechReplica, endpoint: str, body: bytes, *rest: Any, **more: Any) -> Any:
        call = asyncio.create_task(send(self, endpoint, body, *rest, **more))
        if b'"prompt":"deadly"' in body:
            async with asyncio.timeout(60):
                while not call.done() and not (await self.read_gauges()).running:
                    await asyncio.sleep(0.01)
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
        return await call

    monkeypatch.setattr(SpeechReplica, "send", send_or_die)
    options = settings(models_dir) | {"dispatch__tries": 2}
    options["engines"]["local-audio"] |= {"concurrency": 1}
    lines = make_lines(clips[:2]).splitlines()
    deadly = json.loads(make_lines([clips[2]]))
    deadly["body"]["prompt"] = "deadly"
    text = b"\n".join([*lines, json.dumps(deadly | {"custom_id": "deadly"}, separators=(",", ":")).encode()])
    async with open_house(tmp_path / "data", "", **options) as rooms:
        created = await create_batch(rooms, text, endpoint=ENDPOINT)
        batch = await wait_for_batch(rooms, created.id, timeout_s=200)
        assert (batch.state, batch.counts.answered, batch.counts.failed) == (State.COMPLETED, 2, 1)
        (error,) = [json.loads(line) for line in read_results(rooms, batch.error_file_id)]
    assert error["custom_id"] == "deadly"


def test_a_run_hears_files_by_their_paths(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "in").mkdir()
    write_wave(tmp_path / "in" / "spoken.wav", *say(SENTENCES[1]))
    lines = [{"custom_id": name, "body": {"model": "m", "file": f"{name}.wav"}} for name in ("spoken", "none")]
    (tmp_path / "in" / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "answers.jsonl"
    write_settings(tmp_path, models_dir)
    code, _, said = backfill("run", "in/requests.jsonl", "-o", out, "--endpoint", ENDPOINT, folder=tmp_path)
    assert code == 1
    assert "5.0 s of audio" in said
    (answer,) = map(json.loads, out.read_text().splitlines())
    assert "Thursday" in answer["response"]["body"]["text"]
    (error,) = map(json.loads, (tmp_path / "answers.errors.jsonl").read_text().splitlines())
    assert (error["custom_id"], error["error"]["code"]) == ("none", "invalid_media")


def write_settings(folder: Path, models_dir: Path) -> None:
    place = json.dumps(str(models_dir))
    engine = f'[engines.speech]\nkind = "speech"\nmodel = "{MODEL}"\n'
    (folder / "backfill.toml").write_text(f"models_dir = {place}\n{engine}")


def test_the_example_runs(tmp_path: Path, models_dir: Path) -> None:
    out = tmp_path / "answers.jsonl"
    write_settings(tmp_path, models_dir)
    code, _, said = backfill("run", EXAMPLE, "-o", out, "--endpoint", ENDPOINT, folder=tmp_path)
    assert code == 0, said
    answers = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, out.read_text().splitlines())}
    assert "Thursday" in answers["folder"]["text"]
    assert answers["airport"]["words"]
    assert answers["airport"]["segments"]
    assert "-->" in answers["subtitles"]["text"]
    assert {answer["model"] for answer in answers.values()} == {MODEL}
