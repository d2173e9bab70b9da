"""Whatever is sent: an answer of ours, and never one that says that the server failed."""

import asyncio
import random
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
import pytest
from fastapi import FastAPI
from starlette.types import Message
from structlog.testing import capture_logs

from backfill.web.api.schemas import ErrorAnswer
from tests.support.mutation import HOSTILE, mutate
from tests.unit.web.asgi import make_scope
from tests.unit.web.conftest import Api, MakeApi

# Words of the libraries underneath, none of which a user may read.
FOREIGN = re.compile(
    r"Input should|Field required|Value error|should (be|have)|Traceback|pydantic|Errno|codec can't|line \d+, in"
)
STATUSES = {200, 201, 206, 302, 400, 401, 403, 404, 405, 413, 415, 416}
HEADERS = (
    b"host", b"origin", b"sec-fetch-site", b"authorization", b"content-type", b"content-length", b"content-encoding",
    b"range", b"if-range", b"idempotency-key", b"x-stainless-retry-count", b"user-agent", b"accept", b"expect",
    b"transfer-encoding", b"x-forwarded-host", b"cookie",
)  # fmt: skip
MULTIPART = (b"content-type", b"multipart/form-data; boundary=b")


class Request(NamedTuple):
    """One request, as raw as it reaches the application."""

    method: str
    path: bytes
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


def make_form(fields: dict[str, str], content: bytes, name: str = "file") -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    disposition = f'form-data; name="{name}"; filename="in.jsonl"; filename*=UTF-8\'\'in.jsonl'
    head = f"--b\r\nContent-Disposition: {disposition}\r\nContent-Type: application/jsonl\r\n\r\n"
    return ("".join(parts) + head).encode() + content + b"\r\n--b--\r\n"


async def make_corpus(api: Api, content: bytes) -> list[Request]:
    """A good request for every route, about things that are there."""
    file_id = (await api.upload(content))["id"]
    batch_id = (await api.create_batch(file_id))["id"]
    put = (await api.reserve()).headers["location"].removeprefix("http://localhost").encode().partition(b"?")
    facts = {"purpose": "batch-api", "file_name": "in.jsonl", "file_size": 6, "num_parts": 1}
    started = (await api.client.post("/v1/files/multipart/initiate", json=facts)).json()
    part = started["parts"][0]["URL"].removeprefix("http://localhost").encode().partition(b"?")
    wanted = {"filename": "a", "bytes": 6, "mime_type": "", "purpose": "batch", "expires_after": None}
    upload = (await api.client.post("/v1/uploads", json=wanted)).json()["id"]
    named = {"upload_id": started["upload_id"], "file_id": started["file_id"]}
    parts = named | {"parts": [{"part_number": 1, "etag": "0" * 64}]}
    batch = {
        "endpoint": "/v1/chat/completions", "input_file_id": file_id, "completion_window": "24h", "priority": 1,
        "model_id": "m", "metadata": {"a": "b"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }  # fmt: skip
    fields = {
        "purpose": "batch", "file_name": "in.jsonl", "file_type": "jsonl", "checksum": "",
        "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600",
    }  # fmt: skip
    urlencoded = "&".join(f"{key}={value}" for key, value in fields.items()).encode()
    form_type = (b"content-type", b"application/x-www-form-urlencoded")
    retry = ((b"idempotency-key", b"key"), (b"x-stainless-retry-count", b"1"))
    encode = msgspec.json.encode
    of_file, of_batch = f"/v1/files/{file_id}".encode(), f"/v1/batches/{batch_id}".encode()
    requests = [
        Request("POST", b"/v1/files", b"", (MULTIPART,), make_form(fields, content)),
        Request("POST", b"/v1/files/upload", urlencoded, (MULTIPART,), make_form({"purpose": "batch"}, content)),
        Request("POST", b"/v1/files", urlencoded, (form_type,), urlencoded),
        Request("PUT", put[0], put[2], body=content),
        Request("PUT", part[0], part[2], body=b"abcdef"),
        Request("POST", b"/v1/files/multipart/initiate", body=encode(facts | {"checksum": "0" * 64})),
        Request("POST", b"/v1/files/multipart/complete", body=encode(parts)),
        Request("POST", b"/v1/files/multipart/abort", body=encode(named)),
        Request("POST", b"/v1/uploads", body=encode(wanted | {"expires_after": batch["output_expires_after"]})),
        Request("POST", f"/v1/uploads/{upload}/parts".encode(), b"", (MULTIPART,), make_form({}, b"abcdef", "data")),
        Request("POST", f"/v1/uploads/{upload}/complete".encode(), body=encode({"part_ids": ["a"], "md5": ""})),
        Request("POST", f"/v1/uploads/{upload}/cancel".encode()),
        Request("POST", b"/v1/batches", b"", retry, encode(batch)),
        Request("GET", b"/v1/batches", b"after=" + batch_id.encode() + b"&limit=20", ((b"user-agent", b"OpenAI/1"),)),
        Request("GET", of_batch),
        Request("POST", of_batch + b"/cancel"),
        Request("POST", of_batch + b"/retry", b"", retry),
        Request("GET", of_batch + b"/results", b"after=0&follow=true"),
        Request("GET", b"/v1/files", b"purpose=batch&limit=20&order=asc&after=" + file_id.encode()),
        Request("GET", of_file),
        Request("GET", of_file + b"/content", b"", ((b"range", b"bytes=1-3"),)),
        Request("POST", of_file + b"/preprocess"),
        Request("DELETE", b"/v1/files/file-0"),
        Request("GET", b"/v1/models"),
        Request("GET", b"/v1/whoami"),
        Request("GET", b"/v1/engines"),
        Request("GET", b"/metrics"),
        Request("GET", b"/openapi.json"),
        Request("GET", b"/health"),
    ]
    return [request._replace(headers=(*request.headers, (b"host", b"localhost"))) for request in requests]


def vary(request: Request, chance: random.Random, corpus: Sequence[Request]) -> Request:
    """The request after an accident in one or two of its places."""
    for _ in range(chance.randint(1, 2)):
        match chance.randrange(6):
            case 0 if request.query:
                request = request._replace(query=mutate(request.query, chance))
            case 1:
                value = chance.choice((*HOSTILE, *(value for each in corpus for _, value in each.headers)))
                # As uvicorn's parser leaves them.
                value = mutate(value, chance).translate(None, b"\r\n\x00").strip()
                request = request._replace(headers=(*request.headers, (chance.choice(HEADERS), value)))
            case 2 if request.headers:
                headers = [
                    (name, mutate(value, chance).translate(None, b"\r\n\x00")) for name, value in request.headers
                ]
                request = request._replace(headers=tuple(headers))
            case 3:
                request = request._replace(path=b"/" + mutate(request.path, chance).lstrip(b"/"))
            case 4:
                request = request._replace(
                    method=chance.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
                )
            case _:
                request = request._replace(body=mutate(request.body, chance, [each.body for each in corpus]))
    return request


async def send(app: FastAPI, request: Request, chance: random.Random) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer. The client reads to the end, but goes once results have begun."""
    scope = make_scope(request.method, unquote(request.path.decode("latin-1"), errors="replace"), "")
    scope |= {"raw_path": request.path, "query_string": request.query, "headers": list(request.headers)}
    size = chance.choice((1 << 20, 1 << 20, 1000, 7 if len(request.body) < 2000 else 999))
    pieces = [request.body[start : start + size] for start in range(0, len(request.body), size)] or [b""]
    answered: list[Message] = []
    gone = asyncio.Event()

    async def receive() -> Message:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def take(message: Message) -> None:
        answered.append(message)
        if b"/results" in request.path or (len(answered) > 1 and not message.get("more_body")):
            gone.set()

    async with asyncio.timeout(60):
        await app(scope, receive, take)
    headers = dict(answered[0]["headers"])
    return answered[0]["status"], headers, b"".join(message.get("body", b"") for message in answered[1:])


async def check(app: FastAPI, request: Request, chance: random.Random) -> int:
    """Send it, and look at all that must hold of any answer."""
    with capture_logs() as logs:
        status, headers, body = await send(app, request, chance)
    shown = f"{request!r:.3000}"
    assert status in STATUSES, (status, body, shown, logs)
    assert [entry for entry in logs if entry["log_level"] == "error"] == [], shown
    assert headers[b"x-request-id"].startswith(b"req_"), shown
    for name, value in headers.items():
        assert not re.search(rb"[\r\n\x00]", name + value), shown
    if status >= 400 and request.method != "HEAD":
        error = ErrorAnswer.model_validate_json(body).error
        assert not FOREIGN.search(error.message), (error.message, shown)
        assert len(error.message) < 1100, shown
    return status


async def attack(api: Api, content: bytes, seed: int, count: int) -> set[int]:
    """Answer `count` variations; gives every status that was seen."""
    chance = random.Random(seed)
    corpus = await make_corpus(api, content)
    seen = {await check(api.app, request, chance) for request in corpus}
    corpus = await make_corpus(api, content)
    return seen | {await check(api.app, vary(chance.choice(corpus), chance, corpus), chance) for _ in range(count)}


@pytest.mark.parametrize("seed", range(2))
async def test_no_request_makes_the_server_fail(make_api: MakeApi, content: bytes, seed: int) -> None:
    api = await make_api(**{"limits.file_size_bytes": 100_000})
    assert await attack(api, content, seed, 400) >= {200, 400, 403, 404, 405}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 105))
async def test_no_request_of_many_makes_the_server_fail(make_api: MakeApi, content: bytes, seed: int) -> None:
    api = await make_api(**{"limits.file_size_bytes": 100_000})
    assert await attack(api, content, seed, 10_000) >= {200, 206, 302, 400, 403, 404, 405, 413, 415}


@pytest.mark.slow
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value[:30]))
async def test_each_hostile_value_in_each_place(make_api: MakeApi, content: bytes, value: bytes) -> None:
    """Systematically: in every field of forms and queries, every member of JSON and every header."""
    api = await make_api(**{"limits.file_size_bytes": 100_000})
    chance = random.Random(1)
    for request in await make_corpus(api, content):
        plain = value.translate(None, b"\r\n\x00").strip()
        for pair in request.query.split(b"&"):
            await check(api.app, request._replace(query=pair.partition(b"=")[0] + b"=" + value), chance)
        for name in HEADERS if request.method == "POST" else ():
            await check(api.app, request._replace(headers=(*request.headers, (name, plain))), chance)
        for member in set(re.findall(rb'(?<=":)(?:"[^"]*"|\w+)', request.body)):
            for written in (value, b'"' + value + b'"'):
                await check(api.app, request._replace(body=request.body.replace(member, written)), chance)
        for found in set(re.findall(rb'(?<=\r\n\r\n)[^\r\n]+|(?<=name=")[^"]+|(?<=\*=)[^\r]+', request.body)):
            await check(api.app, request._replace(body=request.body.replace(found, value)), chance)
