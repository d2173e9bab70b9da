"""Batches of clips on the real speech engine: the way of an upload to results, and deaths in mid-clip."""

import asyncio
import base64
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from openai.types.audio import Transcription

from backfill.batch import State
from backfill.engines import SpeechReplica
from backfill.journal import Fold
from backfill.store import LocalBlobs
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.engine_process import find_engine
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch
from tests.support.server_process import BackfillServer
from tests.support.speech import SENTENCES, find_words, say, write_wave

pytestmark = pytest.mark.engine

ENDPOINT = "/v1/audio/transcriptions"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "audio.jsonl"
MODEL = "whisper-tiny.en"
LONG_TIMES = 5
Found = TypeVar("Found")


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


def make_long(folder: Path) -> str:
    """All sentences again and again: what it takes to hear that is long enough to be killed in."""
    samples, rate_hz = say(" ".join(SENTENCES))
    return as_url(write_wave(folder / "long.wav", np.tile(samples, LONG_TIMES), rate_hz))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [as_url(write_wave(folder / f"{i}.wav", *say(text))) for i, text in enumerate(SENTENCES[:4])]


class Sends:
    """Which clips went to the engine how often, and who is told when one goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[bytes] = Counter()
        self.in_flight: set[bytes] = set()
        self.deadly = b""
        """A clip that ends the process whenever it is heard, as a file would that breaks a decoder."""
        self.deaths: list[set[bytes]] = []
        """What was with the engine when it ended over the deadly clip."""
        send, watch = SpeechReplica.send, self._end_over

        async def count(replica: SpeechReplica, endpoint: str, body: bytes, *rest: Any, **more: Any) -> Any:
            self.counts[body] += 1
            self.in_flight.add(body)
            call = asyncio.create_task(send(replica, endpoint, body, *rest, **more))
            try:
                if self.deadly and self.deadly in body:
                    await watch(replica, call)
                return await call
            finally:
                self.in_flight.discard(body)

        monkeypatch.setattr(SpeechReplica, "send", count)

    async def _end_over(self, replica: SpeechReplica, call: "asyncio.Task[Any]") -> None:
        async with asyncio.timeout(60):
            while not call.done() and not (await replica.read_gauges()).running:
                await asyncio.sleep(0.01)
        if replica.pid is not None:
            self.deaths.append(set(self.in_flight))
            os.kill(replica.pid, signal.SIGKILL)


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Sends:
    return Sends(monkeypatch)


@pytest.mark.timeout(300)
async def test_the_engine_is_killed_in_mid_clip_and_the_batch_completes(
    tmp_path: Path, models_dir: Path, clips: list[str], sends: Sends
) -> None:
    # With one try each: that the engine ended costs none.
    async with open_house(tmp_path / "data", "", dispatch__tries=1, **settings(models_dir)) as rooms:
        (replica,) = rooms.fleet.replicas
        assert isinstance(replica, SpeechReplica)
        lines = make_lines([clips[0], make_long(tmp_path), *clips[1:]])
        created = await create_batch(rooms, lines, endpoint=ENDPOINT)
        async with asyncio.timeout(120):
            # One is through, and two are being heard.
            while len(sends.counts) < 3 or (await replica.read_gauges()).running != 2:
                await asyncio.sleep(0.02)
        killed, heard_then = replica.pid, set(sends.in_flight)
        assert killed is not None
        assert len(heard_then) == 2
        os.kill(killed, signal.SIGKILL)
        batch = await wait_for_batch(rooms, created.id, timeout_s=200)
        assert (batch.state, batch.counts.answered, batch.counts.failed) == (State.COMPLETED, len(clips) + 1, 0)
        assert replica.pid != killed
        results = [json.loads(line) for line in read_results(rooms, batch.output_file_id)]
    # What was finished was not heard again.
    again = {body for body, count in sends.counts.items() if count > 1}
    assert again
    assert again <= heard_then
    assert [line["custom_id"] for line in results] == [f"clip-{number}" for number in range(len(clips) + 1)]
    answers = [line["response"]["body"] for line in results]
    assert {answer["model"] for answer in answers} == {MODEL}
    heard = [Transcription.model_validate(answer).text for answer in answers]
    long = heard.pop(1)
    for text, one in zip(SENTENCES, heard, strict=False):
        assert len(set(find_words(text)) & set(find_words(one))) >= 0.6 * len(set(find_words(text)))
    assert len(find_words(long)) > 0.9 * LONG_TIMES * len(find_words(" ".join(SENTENCES)))


@pytest.mark.timeout(300)
async def test_a_clip_that_ends_the_engine_every_time_fails_alone(
    tmp_path: Path, models_dir: Path, clips: list[str], sends: Sends
) -> None:
    sends.deadly = b'"prompt": "deadly"'
    options = settings(models_dir) | {"dispatch__tries": 2}
    options["engines"]["local-audio"] |= {"concurrency": 4}
    lines = make_lines([*clips, clips[2]]).splitlines()
    lines[2] = lines[2].replace(b'{"model"', b'{"prompt": "deadly", "model"')
    async with open_house(tmp_path / "data", "", **options) as rooms:
        created = await create_batch(rooms, b"\n".join(lines), endpoint=ENDPOINT)
        batch = await wait_for_batch(rooms, created.id, timeout_s=200)
        assert (batch.state, batch.counts.answered, batch.counts.failed) == (State.COMPLETED, len(clips), 1)
        (error,) = [json.loads(line) for line in read_results(rooms, batch.error_file_id)]
    assert error["custom_id"] == "clip-2"
    assert "ended while it had the request (signal 9)" in json.dumps(error)
    # Once among others, at which nobody is held guilty, and twice alone.
    assert [len(death) for death in sends.deaths] == [4, 1, 1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("finished", "running"), [(0, 2), (3, 1)])
def test_the_server_is_killed_in_mid_clip(
    tmp_path: Path, models_dir: Path, clips: list[str], finished: int, running: int
) -> None:
    options = {"kind": "speech", "model": MODEL, "workers": "1", "batch_size": "2"}
    engine = {f"engines__speech__{name}": value for name, value in options.items()}
    lines = len(clips) + 1
    with BackfillServer(tmp_path / "data", models_dir=str(models_dir), **engine) as server:
        client = Client(server)
        batch_id = client.create(client.upload(make_lines([make_long(tmp_path), *clips])), ENDPOINT)
        killed = wait_for(lambda: find_engine(server.pid, "backfill.engines.speech.host"))
        wait_for(lambda: len(find_done(server, batch_id, lines)) >= finished)
        wait_for(lambda: (killed.read_metric("speech:requests_running") or 0) >= running)
        server.kill()
        wait_for(lambda: not killed.is_running)
        done = find_done(server, batch_id, lines)
        assert finished <= len(done) < lines
        server.start()
        batch = client.wait_for_end(batch_id)
        engine_now = find_engine(server.pid, "backfill.engines.speech.host")
        assert engine_now is not None
        # What was finished was not heard again, and all else once more.
        assert engine_now.read_metric("speech:requests_total") == lines - len(done)
        assert batch["status"] == "COMPLETED"
        assert batch["error_file_id"] is None
        results = [json.loads(line) for line in client.download(batch["output_file_id"])]
    assert [line["custom_id"] for line in results] == [f"clip-{number}" for number in range(lines)]
    assert not engine_now.is_running


def find_done(server: BackfillServer, batch_id: str, lines: int) -> list[int]:
    """The lines that the disk holds an outcome of."""
    fold = Fold(LocalBlobs(server.data_dir / "blobs"), batch_id, lines)
    fold.refresh()
    fold.close()
    return [line for line, outcome in enumerate(fold.outcomes) if outcome]


def wait_for(find: Callable[[], Found | None]) -> Found:
    """What it finds, once that is something."""
    deadline = time.monotonic() + 120
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


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
