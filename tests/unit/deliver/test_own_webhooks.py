"""A batch's own address is told of its end: signed, apart from the server's, and only where the operator lets it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from backfill.accounts import WebhookSecrets
from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from backfill.config import load_config
from backfill.deliver import receivers, webhooks
from backfill.errors import InvalidConfig, InvalidInput
from backfill.wire import openai, together
from bench.media.hostile_names import leading
from bench.media.hostile_server import HostileServer, respond
from bench.null.process import NullEngine
from tests.support.lines import request_line, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, wait_for_batch
from tests.support.webhook_receiver import SECRET, Message, WebhookReceiver
from tests.unit.web.serving import serve

ALLOWED = ["127.0.0.1/32"]


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_TICK_S", 0.05)


@asynccontextmanager
async def opened(engine: NullEngine, folder: Path, **settings: Any) -> AsyncIterator[Rooms]:
    usual = {"allow": ALLOWED, "allow_http": True, "backoff_s": 0.02, "backoff_max_s": 0.1}
    async with open_house(folder, engine.url, webhooks=usual | settings, dispatch__cancel_grace_s=0.0) as rooms:
        yield rooms


async def create(rooms: Rooms, url: str, number: int = 1, **request: Any) -> Batch:
    return await create_batch(rooms, request_line(number), own_webhook_url=url, **request)


async def wait_until_done(rooms: Rooms, batch_id: str) -> Batch:
    """The batch once its own address is not told of it any more."""
    await wait_for_batch(rooms, batch_id)
    async with asyncio.timeout(30):
        while (batch := await rooms.metadata.get_batch(batch_id)).own_webhook_due_at_ms is not None:
            await asyncio.sleep(0.01)
    return batch


async def find_secret(rooms: Rooms, owner: str) -> str:
    return await WebhookSecrets(rooms.metadata).find(owner)


async def heard(receiver: WebhookReceiver, count: int) -> list[Message]:
    return await asyncio.to_thread(receiver.wait_for, count)


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_the_end_is_told_with_the_secret_of_the_owner(
    engine: NullEngine, tmp_path: Path, dialect: Dialect
) -> None:
    line = b'{"method":"POST","url":"/v1/chat/completions",' + request_line(1)[1:]
    with WebhookReceiver() as receiver, capture_logs() as entries:
        async with opened(engine, tmp_path) as rooms:
            receiver.secret = await find_secret(rooms, OWNER)
            created = await create_batch(rooms, line, dialect=dialect, own_webhook_url=receiver.url)
            (message,) = await heard(receiver, 1)
            batch = await wait_until_done(rooms, created.id)
            assert await find_secret(rooms, "another") != receiver.secret
        render = {Dialect.TOGETHER: together.render_batch, Dialect.OPENAI: openai.render_batch}[dialect]
        assert message.content["data"] == json.loads(json.dumps(render(batch, batch.counts)))
        assert message.content["data"]["webhook_url"] == receiver.url.partition("?")[0]
        assert (message.message_id, message.content["type"]) == (f"msg_{batch.id}", "batch.completed")
        assert (batch.own_webhook_tries, batch.webhook_tries, batch.webhook_due_at_ms) == (1, 0, None)
    assert "hidden" not in str(entries)


async def test_the_secret_of_an_owner_stays_the_same(engine: NullEngine, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        async with opened(engine, tmp_path) as rooms:
            found.append(await find_secret(rooms, OWNER))
    assert found[0] == found[1]
    Webhook(found[0])


async def test_whoever_knows_the_servers_secret_can_check_it_too(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        async with opened(engine, tmp_path, secret=SECRET) as rooms:
            created = await create(rooms, receiver.url)
            await heard(receiver, 1)
            await wait_until_done(rooms, created.id)


async def test_every_kind_of_end_is_told(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    with WebhookReceiver() as receiver:
        async with opened(engine, tmp_path, secret=SECRET) as rooms:
            cancelled = await create(rooms, receiver.url)
            await rooms.turns.cancel(cancelled.id, OWNER)
            rejected = await create_batch(rooms, b"[]", own_webhook_url=receiver.url)
            expired = await create(rooms, receiver.url, 2)
            await wait_for_batch(rooms, expired.id, State.IN_PROGRESS)
            await rooms.turns.pause(expired.id, OWNER)
            assert await rooms.metadata.change_batch(expired.id, values={"deadline_at_ms": 1})
            messages = await heard(receiver, 3)
        types = {message.content["data"]["id"]: message.content["type"] for message in messages}
        engine.behave(hold=False)
        assert types == {cancelled.id: "batch.cancelled", rejected.id: "batch.failed", expired.id: "batch.expired"}


@pytest.mark.parametrize("failing", ["own", "server"])
async def test_both_are_told_and_neither_waits_for_the_other(engine: NullEngine, tmp_path: Path, failing: str) -> None:
    statuses = {"own": [500, 0, 503], "server": [500, 0, 503]}
    statuses["server" if failing == "own" else "own"] = []
    with WebhookReceiver(statuses["own"]) as own, WebhookReceiver(statuses["server"]) as server:
        settings = {"url": server.url, "secret": SECRET, "timeout_s": 0.5}
        async with opened(engine, tmp_path, **settings) as rooms:
            created = await create(rooms, own.url)
            (first,) = (await heard(server if failing == "own" else own, 1))[:1]
            (again,) = (await heard(own if failing == "own" else server, 4))[-1:]
            batch = await wait_until_done(rooms, created.id)
            async with asyncio.timeout(30):
                while (batch := await rooms.metadata.get_batch(batch.id)).webhook_due_at_ms is not None:
                    await asyncio.sleep(0.01)
        assert first.body == again.body
        tries = (batch.own_webhook_tries, batch.webhook_tries)
        assert tries == ((4, 1) if failing == "own" else (1, 4))
        assert (len(own.messages), len(server.messages)) == tries


async def test_a_receiver_that_is_down_is_told_once_it_is_there(engine: NullEngine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with opened(engine, tmp_path, secret=SECRET, tries=10_000) as rooms:
        created = await create(rooms, f"http://127.0.0.1:{port}/hooks")
        async with asyncio.timeout(30):
            while (await rooms.metadata.get_batch(created.id)).own_webhook_tries < 2:
                await asyncio.sleep(0.01)
        with WebhookReceiver(port=port) as receiver:
            (message,) = await heard(receiver, 1)
            await wait_until_done(rooms, created.id)
    assert message.message_id == f"msg_{created.id}"


@pytest.mark.parametrize(("statuses", "tries"), [([410], 1), ([500] * 9, 3)], ids=str)
async def test_it_is_given_up(engine: NullEngine, tmp_path: Path, statuses: list[int], tries: int) -> None:
    with WebhookReceiver(statuses) as receiver:
        async with opened(engine, tmp_path, secret=SECRET, tries=3) as rooms:
            batch = await wait_until_done(rooms, (await create(rooms, receiver.url)).id)
        assert (batch.own_webhook_tries, len(receiver.messages)) == (tries, tries)


async def test_the_receivers_of_one_owner_do_not_hold_up_those_of_others(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers.BatchReceiver, "at_once", 3)
    monkeypatch.setattr(receivers.BatchReceiver, "at_once_per_owner", 2)
    with WebhookReceiver([0] * 99) as silent, WebhookReceiver() as receiver:
        async with opened(engine, tmp_path, secret=SECRET, timeout_s=600) as rooms:
            stuck = [await create(rooms, silent.url, number) for number in range(8)]
            for batch in stuck:
                await wait_for_batch(rooms, batch.id)
            await heard(silent, 2)
            other = await create(rooms, receiver.url, 9)
            assert await rooms.metadata.change_batch(other.id, values={"owner": "another"})
            (message,) = await heard(receiver, 1)
            assert len(silent.messages) == 2
    assert message.message_id == f"msg_{other.id}"


REFUSED = {
    "http://127.0.0.2/a": "is not at a public address",
    "http://[::1]/a": "is not at a public address",
    "http://[::ffff:10.0.0.1]/a": "is not at a public address",
    "http://169.254.169.254/latest": "is not at a public address",
    "http://2130706434/a": "is not at a public address",
    "http://0x7f.0.0.2/a": "is not at a public address",
    "http://inner.test/a": "is not at a public address",
    "ftp://good.test/a": "must begin with https://",
    "file:///etc/passwd": "cannot be read as a URL",
    "http://": "cannot be read as a URL",
    "hooks": "cannot be read as a URL",
    "http://good.test:99999/a": "cannot be read as a URL",
    "http://good.test/\n": "cannot be read as a URL",
    "http://good.test/" + "a" * 2048: "is longer than 2048 characters",
}


@pytest.mark.parametrize("url", REFUSED)
async def test_where_nobody_is_told_is_said_at_once(engine: NullEngine, tmp_path: Path, url: str) -> None:
    async with opened(engine, tmp_path) as rooms:
        with leading(), pytest.raises(InvalidInput, match=REFUSED[url]) as refused:
            await create(rooms, url + "?token=hidden" if len(url) < 50 and url.isprintable() else url)
        assert (refused.value.param, refused.value.code) == ("webhook_url", "invalid_webhook_url")
        assert "hidden" not in refused.value.message
        assert await rooms.metadata.list_batches(OWNER, limit=9) == []


async def test_https_is_asked_for(engine: NullEngine, tmp_path: Path) -> None:
    async with opened(engine, tmp_path, allow_http=False) as rooms:
        with pytest.raises(InvalidInput, match=r"must begin with https://.*webhooks\.allow_http"):
            await create(rooms, "http://127.0.0.1/a")


async def test_a_name_that_nobody_knows_now_is_no_reason(engine: NullEngine, tmp_path: Path) -> None:
    async with opened(engine, tmp_path, tries=1) as rooms:
        batch = await wait_until_done(rooms, (await create(rooms, "http://nowhere.invalid/a")).id)
    assert batch.own_webhook_tries == 1


async def test_a_name_that_leads_elsewhere_by_then_is_not_followed(engine: NullEngine, tmp_path: Path) -> None:
    """Public, as far as this server goes, when the batch is made, and private when it has ended."""
    async with HostileServer("127.0.0.2") as inner:
        inner.replies["/hooks"] = respond()
        with leading() as counts, capture_logs() as entries:
            async with opened(engine, tmp_path, tries=2) as rooms:
                created = await create(rooms, f"http://changing.test:{inner.port}/hooks?token=hidden")
                assert counts == {"changing.test": 1}
                batch = await wait_until_done(rooms, created.id)
        assert inner.connections == 0
        assert batch.own_webhook_tries == 2
    reasons = [entry["reason"] for entry in entries if entry["event"] == "webhook failed"]
    assert len(reasons) == 2
    assert all("webhooks.allow" in reason for reason in reasons)
    assert "hidden" not in str(entries)


async def test_a_redirect_is_not_followed(engine: NullEngine, tmp_path: Path) -> None:
    async with HostileServer("127.0.0.2") as inner, HostileServer() as outer:
        outer.replies["/hooks"] = respond(status=307, location=inner.url("/hooks"))
        async with opened(engine, tmp_path, tries=2) as rooms:
            batch = await wait_until_done(rooms, (await create(rooms, outer.url("/hooks"))).id)
        assert (inner.connections, len(outer.asked), batch.own_webhook_tries) == (0, 2, 2)
        # Nor to where it might go.
        outer.replies["/hooks"] = respond(status=307, location=outer.url("/elsewhere"))
        async with opened(engine, tmp_path / "other", tries=1) as rooms:
            await wait_until_done(rooms, (await create(rooms, outer.url("/hooks"))).id)
        assert {asked.target for asked in outer.asked} == {"/hooks"}


@pytest.mark.parametrize("allow", ["inner.test", "127.0.0.2", "127.0.0.0/8"])
async def test_the_operator_opens_private_places(engine: NullEngine, tmp_path: Path, allow: str) -> None:
    async with HostileServer("127.0.0.2") as inner:
        inner.replies["/hooks"] = respond()
        with leading():
            async with opened(engine, tmp_path, allow=[allow]) as rooms:
                url = inner.url("/hooks", "user:word@inner.test")
                batch = await wait_until_done(rooms, (await create(rooms, url)).id)
        assert batch.own_webhook_tries == 1
        (asked,) = inner.asked
        assert asked.headers["authorization"].startswith("Basic ")
        assert together.render_batch(batch, batch.counts)["webhook_url"] == inner.url("/hooks", "inner.test")


async def test_an_answer_without_end_is_not_read(engine: NullEngine, tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def pour(_asked: Any, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        finally:
            ended.set()

    async with HostileServer() as server:
        server.replies["/hooks"] = pour
        async with opened(engine, tmp_path, timeout_s=600) as rooms:
            batch = await wait_until_done(rooms, (await create(rooms, server.url("/hooks"))).id)
            await asyncio.wait_for(ended.wait(), 30)
        assert batch.own_webhook_tries == 1


@pytest.mark.parametrize("allow", [["https://a"], ["a:80"], ["10.0.0.0/40"], [""]])
def test_places_that_are_none_are_refused(allow: list[str]) -> None:
    with pytest.raises(InvalidConfig, match="is no network, no address and no name"):
        load_config(environment={}, overrides={"webhooks": {"allow": allow}})


@asynccontextmanager
async def asking(rooms: Rooms) -> AsyncIterator[httpx.AsyncClient]:
    app, _ = serve(rooms)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def upload(client: httpx.AsyncClient, purpose: str = "batch-api") -> str:
    files = {"file": ("i.jsonl", request_lines(1))}
    return str((await client.post("/v1/files", data={"purpose": purpose}, files=files)).json()["id"])


async def test_it_is_named_in_the_create_and_shown_without_what_is_secret(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        shown = receiver.url.partition("?")[0]
        async with opened(engine, tmp_path) as rooms, asking(rooms) as client:
            answered = (await client.get("/v1/webhooks/secret")).json()
            assert answered == {"object": "webhook.secret", "secret": await find_secret(rooms, OWNER)}
            receiver.secret = answered["secret"]
            members = {"endpoint": "/v1/chat/completions", "input_file_id": await upload(client)}
            made = (await client.post("/v1/batches", json=members | {"webhook_url": receiver.url})).json()["job"]
            assert made["webhook_url"] == shown
            await heard(receiver, 1)
            other = (await client.post("/v1/batches", json=members)).json()["job"]
            assert "webhook_url" not in other
            metadata = {"name": "n", "webhook_url": receiver.url}
            theirs = (await client.post("/openai/v1/batches", json=members | {"metadata": metadata})).json()
            assert (theirs["webhook_url"], theirs["metadata"]) == (shown, {"name": "n", "webhook_url": shown})
            messages = await heard(receiver, 2)
            assert {each.content["data"]["id"] for each in messages} == {made["id"], theirs["id"]}
            assert "hidden" not in str((await client.get("/v1/batches")).text)


async def test_a_create_with_an_address_that_will_not_do(engine: NullEngine, tmp_path: Path) -> None:
    async with opened(engine, tmp_path) as rooms, asking(rooms) as client:
        members = {"endpoint": "/v1/chat/completions", "input_file_id": await upload(client)}
        for more in ({"webhook_url": "http://10.0.0.1/a"}, {"metadata": {"webhook_url": "http://[::1/a"}}):
            response = await client.post("/v1/batches", json=members | more)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "webhook_url")
            assert error["code"] == "invalid_webhook_url"


async def test_a_retry_tells_its_end_at_the_same_address(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    with WebhookReceiver() as receiver:
        async with opened(engine, tmp_path, secret=SECRET) as rooms, asking(rooms) as client:
            created = await create(rooms, receiver.url)
            await rooms.turns.cancel(created.id, OWNER)
            await wait_until_done(rooms, created.id)
            engine.behave(hold=False)
            again = (await client.post(f"/v1/batches/{created.id}/retry")).json()["job"]
            assert again["webhook_url"] == receiver.url.partition("?")[0]
            assert {each.message_id for each in await heard(receiver, 2)} == {f"msg_{created.id}", f"msg_{again['id']}"}
