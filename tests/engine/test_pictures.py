"""The built-in llama.cpp with a projector: pictures reach the model, and what could do harm reaches nothing."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from PIL import Image

from backfill.config import LlamaCppEngineConfig, MediaConfig
from backfill.engines import Answered, EngineClient, LlamaCppReplica, Refused
from backfill.errors import EngineUnavailable
from backfill.media import convert_picture
from tests.support.media import data_url
from tests.support.projector import PICTURE_TOKENS, make_projector

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
QUESTION = {"type": "text", "text": "What is this?"}
MAKE = Callable[..., LlamaCppReplica]


def draw(colour: str, form: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, form)
    return written.getvalue()


def show(*urls: str) -> dict[str, Any]:
    """A message with pictures."""
    return {"role": "user", "content": [QUESTION, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]}


def chat(*urls: str, **members: Any) -> bytes:
    body = {"model": "m", "temperature": 0, "max_tokens": 6, "messages": [show(*urls)]}
    return msgspec.json.encode(body | members)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def make(engine_client: EngineClient, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MAKE:
    def make_replica(**settings: Any) -> LlamaCppReplica:
        config = LlamaCppEngineConfig(**{"slots": 2, "context_tokens": 512, "threads": 1} | settings)
        log_dir = tmp_path_factory.mktemp("log")
        return LlamaCppReplica("local", config, engine_client, models_dir=models_dir, log_dir=log_dir)

    return make_replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(make: MAKE, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppReplica]:
    replica = make(projector=str(make_projector(tmp_path_factory.mktemp("projector") / "mmproj.gguf")))
    await replica.start()
    yield replica
    await replica.stop()


async def ask(replica: LlamaCppReplica, body: bytes, endpoint: str = CHAT) -> tuple[Answered, Any]:
    reply = await replica.send(endpoint, body)
    assert isinstance(reply, Answered), reply
    return reply, msgspec.json.decode(reply.body)


async def test_each_picture_takes_its_place_in_the_prompt(replica: LlamaCppReplica) -> None:
    counts = [
        (await ask(replica, chat(*map(data_url, pictures))))[0].usage.prompt_tokens
        for pictures in ([], [draw("red")], [draw("red"), draw("blue")], [draw("red")] * 5)
    ]
    assert [count - counts[0] for count in counts] == [0, PICTURE_TOKENS, 2 * PICTURE_TOKENS, 5 * PICTURE_TOKENS]


async def test_what_is_seen_is_the_picture(replica: LlamaCppReplica) -> None:
    def answer_of(answer: Any) -> Any:
        return answer["choices"][0]["message"]["content"]

    noise = io.BytesIO()
    Image.effect_noise((96, 96), 100).save(noise, "PNG")
    first, other, again = [
        answer_of((await ask(replica, chat(data_url(picture), max_tokens=12)))[1])
        for picture in (draw("red"), noise.getvalue(), draw("red"))
    ]
    assert first == again
    assert first != other


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
async def test_each_form_is_seen_as_it_is_or_as_the_png_that_is_made_of_it(replica: LlamaCppReplica, form: str) -> None:
    accepted = replica.limits.pictures
    assert accepted
    data, media_type = convert_picture(draw("green", form), accepted, MediaConfig())
    reply, _ = await ask(replica, chat(data_url(data, media_type)))
    assert reply.usage.prompt_tokens > PICTURE_TOKENS


async def test_the_short_form_and_the_choices_of_a_chat_are_seen_too(replica: LlamaCppReplica) -> None:
    part = {"type": "image_url", "image_url": data_url(draw("red"))}
    body = chat(messages=[{"role": "user", "content": [QUESTION, part]}], n=2, seed=1)
    reply, answer = await ask(replica, body)
    assert len(answer["choices"]) == 2
    assert reply.usage.prompt_tokens > PICTURE_TOKENS


async def test_a_response_sees_and_is_a_response(replica: LlamaCppReplica) -> None:
    async def respond(*parts: dict[str, Any]) -> Any:
        content = [{"type": "input_text", "text": "What is this?"}, *parts]
        body = {"model": "m", "max_output_tokens": 4, "input": [{"role": "user", "content": content}]}
        return (await ask(replica, msgspec.json.encode(body), RESPONSES))[1]

    picture = {"type": "input_image", "image_url": data_url(draw("red")), "detail": "auto"}
    blind, seen = await respond(), await respond(picture)
    assert seen["object"] == "response"
    assert seen["usage"]["input_tokens"] - blind["usage"]["input_tokens"] == PICTURE_TOKENS


async def test_a_stream_sees_too(replica: LlamaCppReplica) -> None:
    answer = await replica.forward(CHAT, chat(data_url(draw("red")), stream=True))
    events = []
    while event := await answer.read():
        events.append(event)
    answer.close()
    assert b"[DONE]" in b"".join(events)
    assert answer.status == 200


def bomb() -> str:
    written = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(written, "PNG")
    return data_url(written.getvalue())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", b"follows no links"),
        ("ftp://127.0.0.1/x.png", b"follows no links"),
        ("data:,x", b"follows no links"),
        ("https://127.0.0.1/x.png;base64,iVBORw0KGgoAAAAA", b"follows no links"),
        ("iVBORw0KGgo=", b"follows no links"),
        (data_url(b"<svg></svg>"), b"holds no PNG, JPEG, GIF or BMP"),
        (data_url(draw("red", "WEBP")), b"holds no PNG, JPEG, GIF or BMP"),
        ("data:image/png;base64,%%%", b"holds no PNG, JPEG, GIF or BMP"),
        ("data:image/png;base64,é", b"holds no PNG, JPEG, GIF or BMP"),
        (data_url(draw("red")[:60]), b"Failed to load image"),
        (bomb(), b"16,000 x 16,000 pixels"),
    ],
)
async def test_what_is_no_picture_is_the_requests_own_fault(replica: LlamaCppReplica, url: str, words: bytes) -> None:
    response = msgspec.json.encode({"model": "m", "input": [{"role": "user", "content": [input_image(url)]}]})
    for endpoint, body in ((CHAT, chat(url)), (RESPONSES, response)):
        reply = await replica.send(endpoint, body)
        assert isinstance(reply, Refused)
        assert reply.status == 400
        assert words in reply.body
    await ask(replica, chat(data_url(draw("red"))))


def input_image(url: str) -> dict[str, str]:
    return {"type": "input_image", "image_url": url}


@pytest.mark.parametrize("member", ["image_url", "url"])
async def test_no_link_is_followed(replica: LlamaCppReplica, member: str) -> None:
    asked = asyncio.Event()
    trap = await asyncio.start_server(lambda _reader, _writer: asked.set(), "127.0.0.1", 0)
    link = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/x.png"
    part = {"type": "image_url", "image_url": {"url": link} if member == "url" else link}
    for send in (replica.send, replica.forward):
        answer = await send(CHAT, chat(messages=[{"role": "user", "content": [part]}]))
        assert (answer.status if isinstance(answer, Refused) else getattr(answer, "status", None)) == 400
    trap.close()
    assert not asked.is_set()


async def test_more_pictures_than_the_context_holds_are_refused(replica: LlamaCppReplica) -> None:
    reply = await replica.send(CHAT, chat(*[data_url(draw("red"))] * 20))
    assert isinstance(reply, Refused)
    assert b"context" in reply.body


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
        {"type": "file", "file": {"file_data": base64.b64encode(b"x").decode()}},
    ],
)
async def test_what_it_cannot_take_is_named(replica: LlamaCppReplica, part: dict[str, Any]) -> None:
    reply = await replica.send(CHAT, chat(messages=[{"role": "user", "content": [part]}]))
    assert isinstance(reply, Refused)
    assert f"is a part of type '{part['type']}'; this engine takes text and pictures only.".encode() in reply.body


async def test_without_a_projector_pictures_are_refused_and_the_setting_is_named(make: MAKE) -> None:
    replica = make()
    assert replica.limits.pictures == frozenset()
    bodies: Sequence[tuple[str, bytes]] = (
        (CHAT, chat(data_url(draw("red")))),
        (RESPONSES, msgspec.json.encode({"input": [{"role": "user", "content": [input_image("data:x")]}]})),
    )
    for endpoint, body in bodies:
        reply = await replica.send(endpoint, body)
        assert isinstance(reply, Refused)
        assert b"this engine takes text only; pictures need an engine of kind llamacpp with a projector" in reply.body


@pytest.fixture
def model(models_dir: Path) -> Path:
    return next(models_dir.rglob("*.gguf"))


async def test_a_projector_that_does_not_fit_is_told_at_the_start(make: MAKE, model: Path, tmp_path: Path) -> None:
    other = make_projector(tmp_path / "other.gguf", text_width=64)
    (tmp_path / "text").write_text("x")
    for projector, words in (
        (tmp_path / "gone.gguf", "is no GGUF file of a projector"),
        (tmp_path / "text", "is no GGUF file of a projector"),
        (model, "is no GGUF file of a projector"),
        (other, "cannot load its model"),
    ):
        replica = make(projector=str(projector))
        try:
            with pytest.raises(EngineUnavailable, match=words):
                await replica.start()
        finally:
            await replica.stop()
