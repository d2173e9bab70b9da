"""With keys configured one logs in, sees what is one's own, and no form of another page does anything."""

from pathlib import Path

from backfill.accounts import KeyDraft
from backfill.api_key import Scope
from backfill.turns import BatchRequest
from backfill.web.dashboard.sessions import COOKIE, SESSION_S, Sessions
from bench.null.process import NullEngine
from tests.support.lines import request_line
from tests.support.rooms import seal
from tests.unit.web.dashboard.conftest import ROOT, open_pages, read_fields


async def test_a_key_opens_the_pages_and_shows_only_its_own(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        keys = {}
        for name in ("ada", "bob", "root"):
            scopes = (Scope.ADMIN,) if name == "root" else (Scope.BATCH,)
            keys[name] = (await rooms.keys.create(KeyDraft(name=name, scopes=scopes)))[1]
        batches = {}
        for name in ("ada", "bob"):
            file = await seal(rooms.intake, request_line(0), owner=name)
            batches[name] = await rooms.turns.create(BatchRequest(name, "/v1/chat/completions", file.id))
        response = await browser.client.get("/")
        assert response.url.path == f"{ROOT}/login"
        refused = await browser.client.post(f"{ROOT}/login", data={"key": "nothing"})
        assert (refused.status_code, refused.cookies.get(COOKIE)) == (401, None)
        await browser.client.post(f"{ROOT}/login", data={"key": keys["ada"]})
        cookie = next(each for each in browser.client.cookies.jar if each.name == COOKIE)
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "strict"
        assert keys["ada"] not in (cookie.value or "")
        page = await browser.see(f"{ROOT}/batches")
        assert batches["ada"].id in page
        assert batches["bob"].id not in page
        for path in (
            f"{ROOT}/batches/{batches['bob'].id}",
            f"{ROOT}/files/{batches['bob'].input_file_id}/content",
            f"{ROOT}/new/{batches['bob'].input_file_id}",
            f"{ROOT}/batches/{batches['bob'].id}/results.jsonl",
            f"{ROOT}/events?page=batch&batch={batches['bob'].id}",
        ):
            assert (await browser.client.get(path)).status_code == 404, path
        assert (await browser.client.get(f"{ROOT}/keys")).status_code == 403
        answer = await browser.send(f"{ROOT}/batches/{batches['bob'].id}/cancel", page)
        assert answer.status_code == 404
        answer = await browser.send(f"{ROOT}/batches", page)
        assert answer.status_code == 405
        await browser.client.post(f"{ROOT}/logout", data=read_fields(page, f"{ROOT}/logout"))
        assert (await browser.client.get("/")).url.path == f"{ROOT}/login"
        await browser.client.post(f"{ROOT}/login", data={"key": keys["root"]})
        page = await browser.see(f"{ROOT}/batches")
        assert batches["ada"].id in page
        assert batches["bob"].id in page


async def test_a_form_without_this_sessions_token_does_nothing(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        _, ada = await rooms.keys.create(KeyDraft(name="ada", scopes=(Scope.ADMIN,)))
        await browser.client.post(f"{ROOT}/login", data={"key": ada})
        page = await browser.see(f"{ROOT}/keys")
        token = read_fields(page, f"{ROOT}/keys")
        for wrong in ({}, {"token": ""}, {"token": "0" * 64}):
            answer = await browser.client.post(f"{ROOT}/keys", data=wrong | {"name": "eve", "scopes": "batch"})
            assert answer.status_code == 403
        browser.client.cookies.clear()
        await browser.client.post(f"{ROOT}/login", data={"key": ada})
        stale = await browser.client.post(f"{ROOT}/keys", data=token | {"name": "eve", "scopes": "batch"})
        assert stale.status_code in {200, 403}
        assert [key.name for key in await rooms.keys.list() if key.name == "eve" and stale.status_code == 403] == []


async def test_a_revoked_key_ends_its_session(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        _, root = await rooms.keys.create(KeyDraft(name="root", scopes=(Scope.ADMIN,)))
        await browser.client.post(f"{ROOT}/login", data={"key": root})
        page = await browser.see(f"{ROOT}/keys")
        made = await browser.send(f"{ROOT}/keys", page, name="bob", scopes="batch", days="1")
        assert "It is shown this once" in made.text
        bob = next(key for key in await rooms.keys.list() if key.name == "bob")
        assert bob.expires_at_ms is not None
        assert made.text.count("bf-") >= 1 or bob.prefix in made.text
        for fields in ({"name": ""}, {"name": "x", "days": "0"}, {"name": "x", "scopes": "all"}, {"name": "x"}):
            assert (await browser.send(f"{ROOT}/keys", page, **fields)).status_code == 400
        own = next(key for key in await rooms.keys.list() if key.name == "root")
        await browser.send(f"{ROOT}/keys/{own.id}/revoke", page)
        assert (await browser.client.get("/")).url.path == f"{ROOT}/login"


async def test_a_session_is_over_after_its_time_and_with_other_keys_in_the_settings(
    engine: NullEngine, tmp_path: Path
) -> None:
    now_s = 1000.0
    async with open_pages(tmp_path, engine, server__api_keys=["one", "two"]) as (rooms, _):
        sessions = Sessions(rooms.keys, b"s" * 32, ("one", "two"), lambda: now_s)
        cookie = await sessions.open("one")
        assert await sessions.find_caller(cookie) is not None
        assert await Sessions(rooms.keys, b"s" * 32, ("one",), lambda: now_s).find_caller(cookie) is None
        for broken in (None, "", ".", cookie[:-1] + "0", "x" + cookie, cookie.replace(".", "")):
            assert await sessions.find_caller(broken) is None
        now_s += SESSION_S + 1
        assert await sessions.find_caller(cookie) is None
