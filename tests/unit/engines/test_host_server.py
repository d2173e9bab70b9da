"""The door of the engines that run in Python in a child process: who may ask, and what is said to whom."""

from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from aiohttp import web

from backfill.engines.host_refusal import Refusal
from backfill.engines.host_server import make_app, open_server

KEY = "the key of this test"


class Broken(Exception):
    pass


async def fail(request: web.Request) -> web.Response:
    match request.match_info["how"]:
        case "refused":
            raise Refusal("'n' is wrong.", "n", "wrong_number")
        case "broken":
            raise Broken("of  its own")
        case "moved":
            raise web.HTTPFound("/health")
        case _:
            return web.Response(text="well")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = make_app(KEY, body_size_max_bytes=100, failures=Broken, explain=lambda error: f"It broke: {error}.")
    app.router.add_get("/do/{how}", fail)
    runner, url = await open_server(app)
    yield url
    await runner.cleanup()


async def ask(url: str, path: str, key: str | None = KEY, method: str = "GET") -> tuple[int, dict[str, object]]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(url, headers=headers) as session,
        session.request(method, path, allow_redirects=False) as answer,
    ):
        body = await answer.read()
        return answer.status, msgspec.json.decode(body)["error"] if answer.status >= 400 else {}


@pytest.mark.parametrize("key", [None, "", "another", f"{KEY}x", "schlüssel"])
async def test_only_who_brings_the_key_gets_in(url: str, key: str | None) -> None:
    assert await ask(url, "/health", key) == (200, {})
    for path in ("/do/it", "/do/refused", "/nowhere", "/metrics"):
        status, error = await ask(url, path, key)
        assert (status, error["code"]) == (401, "invalid_api_key")
    assert (await ask(url, "/do/it"))[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "status", "error"),
    [
        ("/do/refused", "GET", 400, ("'n' is wrong.", "invalid_request_error", "n", "wrong_number")),
        ("/do/broken", "GET", 500, ("It broke: of  its own.", "server_error", None, None)),
        ("/nowhere", "GET", 404, ("GET /nowhere: Not Found.", "invalid_request_error", None, None)),
        ("/do/it", "POST", 405, ("POST /do/it: Method Not Allowed.", "invalid_request_error", None, None)),
    ],
)
async def test_every_error_is_openai_s(
    url: str, path: str, method: str, status: int, error: tuple[str | None, ...]
) -> None:
    names = ("message", "type", "param", "code")
    assert await ask(url, path, method=method) == (status, dict(zip(names, error, strict=True)))


async def test_what_is_no_error_is_left_as_it_is(url: str) -> None:
    assert (await ask(url, "/do/moved"))[0] == 302
