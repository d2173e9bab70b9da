"""Batches of what a built-in engine cannot take: each such line fails alone and says which part it is, and of which."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from backfill.batch import Dialect, State
from tests.support.media import data_url, png
from tests.support.projector import make_projector
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch

pytestmark = pytest.mark.engine

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
AUDIO = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF....WAVE").decode(), "format": "wav"}}
FILM = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
PICTURES: dict[str, dict[str, Any]] = {
    CHAT: {"type": "image_url", "image_url": {"url": data_url(png(32, 32))}},
    RESPONSES: {"type": "input_image", "image_url": data_url(png(32, 32))},
}
NO_PICTURES = "takes no pictures; of the built-in ones llama.cpp does, with a projector."
NO_AUDIO = "takes no audio in such a request; the built-in ones hear it at /v1/audio/transcriptions and"


def make_line(name: str, endpoint: str, *parts: dict[str, Any]) -> bytes:
    text = {"type": "input_text" if endpoint == RESPONSES else "text", "text": "Hello."}
    message = {"role": "user", "content": [text, *parts]}
    limit = "max_output_tokens" if endpoint == RESPONSES else "max_tokens"
    body = {"model": "m", limit: 4, "input" if endpoint == RESPONSES else "messages": [message]}
    return json.dumps({"custom_id": name, "method": "POST", "url": endpoint, "body": body}).encode()


async def run(data_dir: Path, engine: dict[str, Any], models_dir: Path, endpoint: str) -> dict[str, dict[str, Any]]:
    """Custom id -> its error; {} if it was answered."""
    lines = [make_line("text", endpoint), make_line("audio", endpoint, AUDIO), make_line("film", endpoint, FILM)]
    if endpoint in PICTURES:
        lines.append(make_line("picture", endpoint, PICTURES[endpoint]))
    settings = {"engines": {"local": {"models": ["m"], **engine}}, "models_dir": str(models_dir)}
    async with open_house(data_dir, "", **settings) as rooms:
        batch = await create_batch(rooms, b"\n".join(lines), endpoint=endpoint, dialect=Dialect.OPENAI)
        batch = await wait_for_batch(rooms, batch.id, timeout_s=120)
        assert batch.state is State.COMPLETED
        found: dict[str, dict[str, Any]] = {}
        for result in map(json.loads, read_results(rooms, batch.output_file_id)):
            found[result["custom_id"]] = {}
        for result in map(json.loads, read_results(rooms, batch.error_file_id)):
            found[result["custom_id"]] = (result.get("response") or {}).get("body", {}).get("error") or result["error"]
        return found


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
@pytest.mark.parametrize("engine", ["openvino", "llamacpp", "llamacpp with a projector"])
async def test_what_an_engine_does_not_take(tmp_path: Path, models_dir: Path, engine: str, endpoint: str) -> None:
    options: dict[str, Any] = {"kind": engine.partition(" ")[0]}
    if options["kind"] == "llamacpp":
        options |= {"slots": 2, "context_tokens": 512}
    if "projector" in engine:
        options["projector"] = str(make_projector(tmp_path / "mmproj.gguf"))
    said = await run(tmp_path / "data", options, models_dir, endpoint)
    if (options["kind"], endpoint) == ("openvino", RESPONSES):
        assert {error["code"] for error in said.values()} == {"invalid_model"}
        assert all("Invalid model specified" in error["message"] for error in said.values())
        return
    part = f"{'input' if endpoint == RESPONSES else 'messages'}[0].content[1]"
    assert said["text"] == {}
    assert said["audio"]["code"] == "invalid_media"
    assert f"Engine local {NO_AUDIO}" in said["audio"]["message"]
    assert said["audio"]["param"] == f"body.{part}.input_audio.data"
    assert f"'{part}' is a part of type 'video_url'; this engine takes text" in said["film"]["message"]
    assert said["film"]["param"] == part
    if "projector" in engine:
        assert said["picture"] == {}
        return
    assert said["picture"]["code"] == "invalid_media"
    assert f"Engine local {NO_PICTURES}" in said["picture"]["message"]
    assert said["picture"]["param"] == f"body.{part}.image_url" + (".url" if endpoint == CHAT else "")


@pytest.mark.parametrize("engine", ["openvino", "llamacpp"])
async def test_messages_are_served_by_no_built_in_engine(tmp_path: Path, models_dir: Path, engine: str) -> None:
    said = await run(tmp_path / "data", {"kind": engine}, models_dir, MESSAGES)
    assert {error["code"] for error in said.values()} == {"invalid_model"}
    assert {error["message"] for error in said.values()} == {
        'Invalid model specified: "m". This server serves no model on this endpoint.'
    }
