"""What the pages show and do: the same as the API, and nothing that a line or a name brings with it."""

import asyncio
import itertools
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from backfill.batch import State
from backfill.web.dashboard import House, journal_views
from backfill.web.dashboard.history import EngineHistory
from backfill.web.dashboard.live_pages import LivePages
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, wait_for_batch
from tests.unit.web.dashboard.conftest import ROOT, open_pages, read_fields

HOSTILE = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def hostile_line(number: int) -> bytes:
    body = {"model": f"m{HOSTILE}", "messages": [{"role": HOSTILE, "content": f"marker-{marker_of(number)} {HOSTILE}"}]}
    return json.dumps({"custom_id": f"{HOSTILE}{number}", "body": body}).encode()


async def test_the_overview_shows_engines_and_batches_without_a_script_of_theirs(
    engine: NullEngine, tmp_path: Path
) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        ended = await create_batch(rooms, hostile_line(0), metadata={"name": HOSTILE})
        await wait_for_batch(rooms, ended.id)
        page = await browser.see("/")
        assert HOSTILE not in page
        assert ESCAPED in page
        assert "null" in page
        response = await browser.client.get("/")
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-request-id"]
        assert "style=" not in page


async def test_a_batch_shows_its_lines_side_by_side_and_its_failures_in_groups(
    engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(faults={marker_of(number): ["400"] for number in range(3)})
    async with open_pages(tmp_path, engine) as (rooms, browser):
        made = await create_batch(rooms, b"\n".join(hostile_line(number) for number in range(40)))
        ended = await wait_for_batch(rooms, made.id)
        engine.behave(faults=None)
        path = f"{ROOT}/batches/{ended.id}"
        page = await browser.see(path)
        assert HOSTILE not in page
        assert "Retry these 3" in page
        assert page.count('<article class="entry">') == 25
        assert "The null engine says this" in page
        second = await browser.see(f"{path}?first=25")
        assert second.count('<article class="entry">') == 15
        found = await browser.see(f"{path}?custom_id=%3C/script%3E39")
        assert found.count('<article class="entry">') == 1
        refused = await browser.see(f"{path}?kind=refused")
        assert refused.count('<article class="entry">') == 3
        answer = await browser.client.post(f"{path}/retry", data=read_fields(page, f"{path}/retry"))
        assert answer.status_code == 200
        again = await browser.client.post(f"{path}/retry", data=read_fields(page, f"{path}/retry"))
        assert str(answer.url) == str(again.url)
        retried = await wait_for_batch(rooms, str(answer.url).rpartition("/")[2])
        assert (retried.counts.total, retried.counts.answered) == (3, 3)


async def test_downloads_are_the_files_and_what_is_finished_so_far(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(4, 8)})
    async with open_pages(tmp_path, engine) as (rooms, browser):
        lines = b"\n".join(request_line(number) for number in range(8))
        made = await create_batch(rooms, lines)
        async with asyncio.timeout(30):
            while (await rooms.progress.count(await rooms.metadata.get_batch(made.id))).done < 4:
                await asyncio.sleep(0.01)
        page = await browser.see(f"{ROOT}/batches/{made.id}")
        assert "results.jsonl" in page
        response = await browser.client.get(f"{ROOT}/batches/{made.id}/results.jsonl")
        assert len(response.text.splitlines()) == 4
        assert "attachment" in response.headers["content-disposition"]
        content = await browser.client.get(f"{ROOT}/files/{made.input_file_id}/content")
        assert content.content == lines
        fields = read_fields(page, f"{ROOT}/batches/{made.id}/cancel")
        await browser.client.post(f"{ROOT}/batches/{made.id}/cancel", data=fields)
        assert (await wait_for_batch(rooms, made.id)).state is State.CANCELLED
        engine.behave(faults=None)


async def test_why_a_batch_does_not_move_stands_on_its_page(engine: NullEngine, tmp_path: Path) -> None:
    settings = {"engines": {"gone": {"url": "http://127.0.0.1:9"}}}
    async with open_pages(tmp_path, engine, **settings) as (rooms, browser):
        made = await create_batch(rooms, request_line(0))
        async with asyncio.timeout(30):
            while rooms.dispatcher.find_wait(await rooms.metadata.get_batch(made.id)) is None:
                await asyncio.sleep(0.01)
        page = await browser.see(f"{ROOT}/batches/{made.id}")
        assert "Why it does not move:" in page


async def test_a_batch_is_paused_and_goes_on(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        engine.behave(hold=True)
        made = await create_batch(rooms, b"\n".join(request_line(number) for number in range(20)), name="slow")
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 8)
        path = f"{ROOT}/batches/{made.id}"
        overview = await browser.see("/")
        assert 'aria-label="Pause batch slow"' in overview
        answer = await browser.client.post(f"{path}/pause", data=read_fields(overview, f"{path}/pause"))
        assert str(answer.url).endswith(path)
        assert (await rooms.metadata.get_batch(made.id)).state is State.PAUSED
        assert "[paused]" in answer.text
        assert "Resume this batch" in answer.text
        engine.behave(hold=False)
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 0)
        assert 'aria-label="Resume batch slow"' in await browser.see("/")
        await browser.client.post(f"{path}/resume", data=read_fields(answer.text, f"{path}/resume"))
        assert (await wait_for_batch(rooms, made.id)).counts.answered == 20


async def test_a_file_is_checked_estimated_and_started_once(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        page = await browser.see(f"{ROOT}/new")
        lines = b"\n".join([request_line(0), b'{"custom_id": "bad"}', request_line(1)])
        token = read_fields(page, f"{ROOT}/new")
        answer = await browser.client.post(
            f"{ROOT}/new",
            data=token,
            files={"file": (f"{HOSTILE}.jsonl", lines)},
            headers={"accept": "application/json"},
        )
        path = answer.json()["path"]
        checked = await browser.see(path)
        assert HOSTILE not in checked
        assert "line 2: " in checked
        assert "Start 3 requests" in checked
        fields = read_fields(checked, path) | {"endpoint": "/v1/chat/completions", "name": "mine", "window": "2h"}
        first, second = [await browser.client.post(path, data=fields) for _ in range(2)]
        assert str(first.url) == str(second.url)
        made = await wait_for_batch(rooms, str(first.url).rpartition("/")[2])
        assert (made.name, made.completion_window, made.counts.answered) == ("mine", "2h", 2)
        assert "1 batch," in await browser.see(f"{ROOT}/batches?text=min")
        assert len(await rooms.metadata.list_batches(OWNER, limit=10)) == 1


async def test_a_file_that_is_no_input_says_why(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (_, browser):
        page = await browser.see(f"{ROOT}/new")
        answer = await browser.client.post(
            f"{ROOT}/new", data=read_fields(page, f"{ROOT}/new"), files={"file": ("a.jsonl", b"not json\n")}
        )
        assert "This file cannot be run" in answer.text
        assert "Start" not in answer.text
        empty = await browser.client.post(f"{ROOT}/new", data=read_fields(page, f"{ROOT}/new"))
        assert empty.status_code == 400


async def test_the_list_is_filtered_and_its_buttons_do_what_they_say(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(7): ["400"] * 9})
    async with open_pages(tmp_path, engine) as (rooms, browser):
        failed = [
            await create_batch(rooms, b"\n".join([request_line(7), request_line(1)]), metadata={"team": "a%b"})
            for _ in range(2)
        ]
        for batch in failed:
            await wait_for_batch(rooms, batch.id)
        engine.behave(faults=None, hold=True)
        running = [await create_batch(rooms, request_line(number)) for number in range(3)]
        page = await browser.see(f"{ROOT}/batches")
        assert "5 batches" in page
        assert "Cancel 3 batches" in page
        assert "Retry what failed: 2 requests of 2 batches" in page
        narrowed = await browser.see(f"{ROOT}/batches?text=a%25b&state=completed")
        assert "2 batches" in narrowed
        assert "Cancel" not in narrowed
        assert "0 batches" in await browser.see(f"{ROOT}/batches?text=a_b")
        fields = read_fields(page, f"{ROOT}/batches/cancel")
        late = await create_batch(rooms, request_line(9))
        answer = await browser.client.post(f"{ROOT}/batches/cancel", data=fields | {"count": "2"})
        assert (answer.status_code, "The list has changed" in answer.text) == (400, True)
        answer = await browser.client.post(f"{ROOT}/batches/cancel", data=fields)
        assert "3 cancelled" in answer.text
        engine.behave(hold=False)
        states = {(await wait_for_batch(rooms, batch.id)).state for batch in running}
        assert states == {State.CANCELLED}
        # It was not on the page whose button was pressed.
        assert (await wait_for_batch(rooms, late.id)).state is State.COMPLETED
        fields = read_fields(page, f"{ROOT}/batches/retry")
        for _ in range(2):
            answer = await browser.client.post(f"{ROOT}/batches/retry", data=fields)
            assert answer.status_code == 200
        retries = [
            batch
            for batch in await rooms.metadata.list_batches(OWNER, limit=100)
            if "retry_of" in (batch.metadata or {})
        ]
        assert len(retries) == 2


async def test_what_is_not_there_is_a_page_too(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (_, browser):
        for path, status in (
            (f"{ROOT}/batches/none", 404),
            (f"{ROOT}/nothing", 404),
            (f"{ROOT}/batches?offset=x", 400),
        ):
            response = await browser.client.get(path)
            assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert (await browser.client.get("/v1/nothing")).headers["content-type"] == "application/json"
        assert (await browser.client.get("/health")).status_code == 200


async def test_a_stream_sends_what_has_changed_and_ends_with_the_server(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        engine.behave(hold=True)
        made = await create_batch(rooms, request_line(0))
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        parts: list[dict[str, str]] = []
        # httpx gathers a whole answer before it gives any of it.
        pages = browser.app
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"{ROOT}/events",
            "raw_path": b"",
            "root_path": "",
            "scheme": "http",
            "query_string": f"page=batch&batch={made.id}".encode(),
            "headers": [(b"host", b"localhost")],
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        ended = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            body = message.get("body", b"")
            assert isinstance(body, bytes)
            if body.startswith(b"data: "):
                parts.append(json.loads(body.removeprefix(b"data: ")))
                if len(parts) == 1:
                    engine.behave(hold=False)
            if any("completed" in part.get("head", "") and "1 of 1 done" in part["head"] for part in parts):
                browser.services.stopping.set()

        async with asyncio.timeout(30):
            await pages(scope, receive, send)
        assert set(parts[0]) == {"head", "charts", "money", "failures"}
        for earlier, later in itertools.pairwise(parts):
            assert [name for name, part in later.items() if earlier.get(name) == part] == []


async def test_files_of_looked_at_batches_stay_open_for_a_few_only(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_views, "_KEPT", 2)
    async with open_pages(tmp_path, engine) as (rooms, browser):
        made = [await create_batch(rooms, request_line(number)) for number in range(4)]
        for batch in made:
            await wait_for_batch(rooms, batch.id)
        before = count_descriptors()
        for _ in range(2):
            pages = await asyncio.gather(*(browser.see(f"{ROOT}/batches/{batch.id}") for batch in made))
            assert all("1 of 1 done" in page for page in pages)
        assert count_descriptors() - before <= 6
        await rooms.intake.remove(made[0].input_file_id)
        gone = await browser.see(f"{ROOT}/batches/{made[0].id}")
        assert "input file" in gone


async def test_nothing_is_rendered_for_a_viewer_who_has_gone(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (_, browser):
        house = House(browser.services, EngineHistory(browser.services.list_replicas))
        pages = LivePages(house)
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"page=overview", "headers": []}
        response = await pages.answer(Request(scope))
        assert isinstance(response, StreamingResponse)
        seen = asyncio.Event()

        async def look() -> None:
            async for _piece in response.body_iterator:
                seen.set()

        viewer = asyncio.create_task(look())
        async with asyncio.timeout(20):
            await seen.wait()
            assert pages.viewers == 1
            viewer.cancel()
            await asyncio.wait((viewer,))
        assert (viewer.cancelled(), pages.viewers) == (True, 0)
        house.close()
