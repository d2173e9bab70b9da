"""OpenAI's and Together's SDKs, unmodified, run batches of clips on a speech server of somebody else's."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI
from openai.types.audio import Transcription, TranscriptionVerbose, Translation
from together import Together

from tests.conformance.conftest import API_KEY, wait_for
from tests.support.server_process import BackfillServer
from tests.support.speech_server import SpeechServer, make_wave

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"
MODEL = "openai/whisper-large-v3"
SETTINGS = {
    "server__api_keys": f'["{API_KEY}"]',
    "media__allow": '["127.0.0.1/32"]',
    "media__allow_http": "true",
    "catalogue__models": f'{{"{MODEL}" = {{audio_per_minute = 0.6, discount_percent = 50}}}}',
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_TELEMETRY_DISABLED", "1")


@pytest.fixture
def speech() -> Iterator[SpeechServer]:
    with SpeechServer() as running:
        yield running


@pytest.fixture
def server(speech: SpeechServer, tmp_path: Path) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path / "data", speech.url, **SETTINGS) as running:
        yield running


@pytest.fixture
def openai(server: BackfillServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, admin_api_key=API_KEY) as client:
        yield client


@pytest.fixture
def together(server: BackfillServer) -> Iterator[Together]:
    with Together(base_url=server.url, api_key=API_KEY) as client:
        yield client


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(content: bytes) -> dict[str, Any]:
    return {line["custom_id"]: line for line in map(json.loads, content.splitlines())}


def test_openai_s_sdk(openai: OpenAI, speech: SpeechServer, tmp_path: Path) -> None:
    clip = tmp_path / "own.wav"
    clip.write_bytes(make_wave(3000))
    uploaded = openai.files.create(file=clip, purpose="user_data")
    inline = f"data:audio/wav;base64,{base64.b64encode(make_wave(500)).decode()}"
    speech.refused = {"tlh"}
    bodies: list[dict[str, Any]] = [
        {"file": speech.link(1500, 1)},
        {
            "file_url": speech.link(1500, 1),
            "response_format": "verbose_json",
            "timestamp_granularities": ["word", "segment"],
        },
        {"file": inline, "response_format": "text", "language": "auto"},
        {"file": uploaded.id, "response_format": "srt", "language": "en", "prompt": "A train.", "temperature": 0.5},
        {"file": speech.link(1500, 2), "language": "tlh"},
        {"file": speech.link(1500, 3), "response_format": "docx"},
        {"file": "https://169.254.169.254/latest"},
        {"messages": []},
    ]
    lines = [
        {"custom_id": str(number), "method": "POST", "url": TRANSCRIPTIONS, "body": {"model": MODEL} | body}
        for number, body in enumerate(bodies)
    ]
    with write_lines(tmp_path / "in.jsonl", lines).open("rb") as source:
        file = openai.files.create(file=source, purpose="batch")
    made = openai.batches.create(input_file_id=file.id, endpoint=TRANSCRIPTIONS, completion_window="24h")  # type: ignore[arg-type]
    batch = wait_for(lambda: openai.batches.retrieve(made.id).model_dump(), "completed", "failed")
    assert batch["status"] == "completed", batch
    answered = {
        name: line["response"]["body"]
        for name, line in read_lines(openai.files.content(batch["output_file_id"]).read()).items()
    }
    failed = read_lines(openai.files.content(batch["error_file_id"]).read())
    assert sorted(answered) == ["0", "1", "2", "3"], failed.get("3")
    plain = Transcription.model_validate(answered["0"])
    assert plain.text == "transcriptions of 1.5 s"
    assert plain.usage is not None
    verbose = TranscriptionVerbose.model_validate(answered["1"])
    assert (verbose.duration, verbose.text) == (1.5, "transcriptions of 1.5 s")
    assert answered["2"] == {"text": "transcriptions of 0.5 s\n", "usage": {"type": "duration", "seconds": 1}}
    assert answered["3"]["text"].startswith("1\n00:00:00,000 --> ")
    params = {name: line["response"]["body"]["error"].get("param") for name, line in failed.items()}
    assert params == {"4": None, "5": "body.response_format", "6": "body.file", "7": "body.file"}
    assert all("secret" not in json.dumps(line) for line in failed.values())
    # What is wrong is known before anything is fetched, and what is named twice is fetched once.
    assert speech.fetches == {"/clips/1500/1.wav": 1, "/clips/1500/2.wav": 1}
    form = next(form for form in speech.forms if form.get("prompt"))
    assert form["file"] == ("own.wav", clip.read_bytes()) or form["file"][1] == clip.read_bytes()
    assert {name: value for name, value in form.items() if name != "file"} == {
        "model": MODEL,
        "response_format": "srt",
        "language": "en",
        "prompt": "A train.",
        "temperature": "0.5",
    }
    assert all("language" not in form for form in speech.forms if form.get("response_format") == "text")
    (words,) = (form for form in speech.forms if form.get("response_format") == "verbose_json")
    assert words["timestamp_granularities"] == ["word", "segment"]
    check_money(openai, batch)


def check_money(openai: OpenAI, batch: dict[str, Any]) -> None:
    """1.5 s twice, as told; text without a word of it by the clip's header, 0.5 s, in whole seconds, and 3 s."""
    assert batch["cost"]["models"][0]["audio_seconds"] == 1.5 + 1.5 + 1 + 3
    assert float(batch["cost"]["list"]) == pytest.approx(7 / 60 * 0.6)
    assert float(batch["cost"]["paid"]) == pytest.approx(7 / 60 * 0.3)
    usage = openai.admin.organization.usage
    when = {"start_time": batch["created_at"] - 3600, "end_time": batch["created_at"] + 86_400}
    found = [each for bucket in usage.audio_transcriptions(**when).data for each in bucket.results]
    assert [(each.seconds, each.num_model_requests) for each in found] == [(7, 8)]  # type: ignore[union-attr]
    costs = [each for bucket in usage.costs(**when, group_by=["line_item"]).data for each in bucket.results]
    assert [(each.line_item, each.quantity) for each in costs] == [(f"{MODEL}, audio_seconds", 7)]  # type: ignore[union-attr]


@pytest.mark.parametrize("method", [{"method": "FILE"}, {}], ids=["FILE", "none"])
def test_together_s_sdk(together: Together, speech: SpeechServer, tmp_path: Path, method: dict[str, str]) -> None:
    lines = [
        {"custom_id": f"clip-{number}", **method, "body": {"model": MODEL, "file": speech.link(1000 + number, number)}}
        for number in range(12)
    ]
    file = together.files.upload(write_lines(tmp_path / "in.jsonl", lines), purpose="batch-api", check=False)
    job = together.batches.create(input_file_id=str(file.id), endpoint=TRANSLATIONS).job
    assert job is not None

    def retrieve() -> dict[str, Any]:
        return together.batches.retrieve(str(job.id)).model_dump()

    batch = wait_for(retrieve, "COMPLETED", "FAILED")
    assert batch["status"] == "COMPLETED", batch
    results = read_lines(together.files.content(id=batch["output_file_id"]).read())
    assert set(results) == {line["custom_id"] for line in lines}
    for number in range(12):
        body = results[f"clip-{number}"]["response"]["body"]
        assert Translation.model_validate(body).text == f"translations of {(1000 + number) / 1000:g} s"
    assert len(speech.fetches) == 12
    assert batch["cost"]["models"][0]["audio_seconds"] == pytest.approx(12 + 0.066)


@pytest.mark.parametrize("style", ["vllm", "llamacpp", "silent"])
def test_what_other_servers_say_of_the_length_is_understood(
    openai: OpenAI, speech: SpeechServer, tmp_path: Path, style: str
) -> None:
    speech.style = style
    lines = [
        {
            "custom_id": str(mark),
            "method": "FILE",
            "url": TRANSCRIPTIONS,
            "body": {"model": MODEL, "file": speech.link(2000, mark)},
        }
        for mark in range(3)
    ]
    with write_lines(tmp_path / "in.jsonl", lines).open("rb") as source:
        file = openai.files.create(file=source, purpose="batch")
    made = openai.batches.create(input_file_id=file.id, endpoint=TRANSCRIPTIONS, completion_window="24h")  # type: ignore[arg-type]
    batch = wait_for(lambda: openai.batches.retrieve(made.id).model_dump(), "completed", "failed")
    (used,) = batch["cost"]["models"]
    assert (used["answered"], used["audio_seconds"]) == (3, 6)
    # By the minute, whatever tokens are told too.
    assert float(used["paid"]) == pytest.approx(6 / 60 * 0.3)
    assert used["input_tokens"] == (27 if style == "llamacpp" else 0)


def test_nobody_serves_it(tmp_path: Path, speech: SpeechServer) -> None:
    settings = SETTINGS | {"engines__null__endpoints": '["/v1/chat/completions"]'}
    with (
        BackfillServer(tmp_path / "data", speech.url, **settings) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY) as openai,
    ):
        line = {
            "custom_id": "a",
            "method": "POST",
            "url": TRANSCRIPTIONS,
            "body": {"model": "m", "file": speech.link(1, 1)},
        }
        with write_lines(tmp_path / "in.jsonl", [line]).open("rb") as source:
            file = openai.files.create(file=source, purpose="batch")
        made = openai.batches.create(input_file_id=file.id, endpoint=TRANSCRIPTIONS, completion_window="24h")  # type: ignore[arg-type]
        batch = wait_for(lambda: openai.batches.retrieve(made.id).model_dump(), "completed", "failed")
        failed = read_lines(openai.files.content(batch["error_file_id"]).read())
        assert failed["a"]["response"]["status_code"] == 404
        assert "Invalid model specified" in failed["a"]["response"]["body"]["error"]["message"]
    assert speech.fetches == {}
