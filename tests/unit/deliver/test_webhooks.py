"""The outside is told of every end, until it has heard; and nothing waits for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from backfill.config import load_config
from backfill.deliver import ServerReceiver, webhooks
from backfill.deliver.webhooks import WebhookSender
from backfill.errors import InvalidConfig, StoreUnavailable
from backfill.turns import Setbacks, setbacks
from backfill.wire import openai, together
from bench.null.process import NullEngine
from tests.support.lines import request_line
from tests.support.rooms import OWNER, create_batch, open_house, wait_for_batch
from tests.support.webhook_receiver import SECRET, Message, WebhookReceiver


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is sent soon, although nothing rings for it."""
    monkeypatch.setattr(webhooks, "_TICK_S", 0.05)


@asynccontextmanager
async def open_with(engine: NullEngine, folder: Path, url: str, **settings: Any) -> AsyncIterator[Rooms]:
    webhooks = {"url": url, "secret": SECRET, "backoff_s": 0.02, "backoff_max_s": 0.1} | settings
    async with open_house(folder, engine.url, webhooks=webhooks, dispatch__cancel_grace_s=0.0) as rooms:
        yield rooms


async def wait_until_done(rooms: Rooms, batch_id: str) -> Batch:
    """The batch once nobody is to be told of it any more."""
    async with asyncio.timeout(30):
        while (batch := await rooms.metadata.get_batch(batch_id)).webhook_due_at_ms is not None:
            await asyncio.sleep(0.01)
    return batch


async def heard(receiver: WebhookReceiver, count: int) -> list[Message]:
    return await asyncio.to_thread(receiver.wait_for, count)


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_completed_batch_is_told_as_its_clients_see_it(
    engine: NullEngine, tmp_path: Path, dialect: Dialect
) -> None:
    line = b'{"method":"POST","url":"/v1/chat/completions",' + request_line(1)[1:]
    with WebhookReceiver() as receiver:
        async with open_with(engine, tmp_path, receiver.url) as rooms:
            created = await create_batch(rooms, line, dialect=dialect)
            (message,) = await heard(receiver, 1)
            batch = await wait_until_done(rooms, created.id)
        assert message.message_id == f"msg_{batch.id}"
        assert message.content.keys() == {"type", "timestamp", "data"}
        assert message.content["type"] == "batch.completed"
        render = {Dialect.TOGETHER: together.render_batch, Dialect.OPENAI: openai.render_batch}[dialect]
        assert message.content["data"] == json.loads(json.dumps(render(batch, batch.counts)))
        assert batch.webhook_tries == 1


async def test_every_kind_of_end_is_told(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    with WebhookReceiver() as receiver:
        async with open_with(engine, tmp_path, receiver.url) as rooms:
            cancelled = await create_batch(rooms, request_line(1))
            await rooms.turns.cancel(cancelled.id, OWNER)
            rejected = await create_batch(rooms, b"[]")
            expired = await create_batch(rooms, request_line(2))
            await wait_for_batch(rooms, expired.id, State.IN_PROGRESS)
            assert await rooms.metadata.change_batch(expired.id, values={"deadline_at_ms": 1})
            messages = await heard(receiver, 3)
        types = {message.content["data"]["id"]: message.content["type"] for message in messages}
        engine.behave(hold=False)
        assert types == {cancelled.id: "batch.cancelled", rejected.id: "batch.failed", expired.id: "batch.expired"}


@pytest.mark.parametrize("statuses", [[500, 503], [307, 429], [404, 400], [0, 200]], ids=str)
async def test_it_is_sent_again_until_it_is_heard(engine: NullEngine, tmp_path: Path, statuses: list[int]) -> None:
    with WebhookReceiver(statuses) as receiver, capture_logs() as entries:
        async with open_with(engine, tmp_path, receiver.url, timeout_s=0.5) as rooms:
            created = await create_batch(rooms, request_line(1))
            failures = sum(not 200 <= status < 300 for status in statuses)
            messages = await heard(receiver, failures + 1)
            batch = await wait_until_done(rooms, created.id)
        assert len({(message.message_id, message.body) for message in messages}) == 1
        assert (len(receiver.messages), batch.webhook_tries) == (failures + 1, failures + 1)
        failed = [entry for entry in entries if entry["event"] == "webhook failed"]
        assert len(failed) == failures
        assert not any(word in str(entries) for word in ("hidden", SECRET, SECRET.removeprefix("whsec_")))


@pytest.mark.parametrize(("statuses", "tries"), [([410], 1), ([500] * 9, 3)], ids=str)
async def test_it_is_given_up(engine: NullEngine, tmp_path: Path, statuses: list[int], tries: int) -> None:
    with WebhookReceiver(statuses) as receiver:
        async with open_with(engine, tmp_path, receiver.url, tries=3) as rooms:
            created = await create_batch(rooms, request_line(1))
            await heard(receiver, tries)
            batch = await wait_until_done(rooms, created.id)
            assert (batch.webhook_tries, len(receiver.messages)) == (tries, tries)
            # The next one is told all the same.
            other = await create_batch(rooms, request_line(2))
            await heard(receiver, tries + 1)
        assert receiver.messages[tries].message_id == f"msg_{other.id}"


async def test_a_receiver_that_never_answers_holds_nothing_up(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver([0] * 99) as receiver:
        async with open_with(engine, tmp_path, receiver.url, timeout_s=600) as rooms:
            await wait_for_batch(rooms, (await create_batch(rooms, request_line(1))).id)
            await heard(receiver, 1)
            late = await wait_for_batch(rooms, (await create_batch(rooms, request_line(2))).id)
            assert late.state is State.COMPLETED
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < 5


async def test_a_receiver_that_is_not_there_is_told_by_the_next_server(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        nobody = receiver.url.replace("127.0.0.1", "127.0.0.2")
        async with open_with(engine, tmp_path, nobody) as rooms:
            created = await create_batch(rooms, request_line(1))
            await wait_for_batch(rooms, created.id)
        async with open_with(engine, tmp_path, receiver.url) as rooms:
            (message,) = await heard(receiver, 1)
            await wait_until_done(rooms, created.id)
        assert message.message_id == f"msg_{created.id}"


async def test_without_an_address_nothing_is_due(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_line(1))).id)
        assert batch.webhook_due_at_ms is None


def test_waits_grow_up_to_a_limit() -> None:
    settings = load_config(environment={}, overrides={"webhooks": {"url": "http://a", "secret": SECRET}}).webhooks

    announcements: Any = SimpleNamespace(kind="webhook")
    sender = WebhookSender(announcements, ServerReceiver(settings), settings, Setbacks())
    middles = [min(5 * 4**number, 43_200) for number in range(9)]
    waits = [sender._find_wait(tries) for tries in range(1, 10)]
    assert all(0.75 * middle <= wait <= 1.25 * middle for middle, wait in zip(middles, waits, strict=True))
    assert sender._find_wait(10**6) <= 1.25 * 43_200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://a"}, "needs a secret"),
        ({"url": "ftp://a", "secret": SECRET}, "must begin with http"),
        ({"url": "http://a", "secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"url": "http://a", "secret": SECRET.removeprefix("whsec_")}, "24 to 64 bytes"),
        ({"url": "http://a", "secret": "whsec_not base64 not base64 not base64"}, "24 to 64 bytes"),
    ],
)
def test_settings_that_will_not_do(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said) as refused:
        load_config(environment={}, overrides={"webhooks": settings})
    assert settings.get("secret", "no secret") not in str(refused.value)


async def test_while_it_cannot_be_noted_down_it_is_not_sent_again(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "_PAUSE_S", 0.01)
    with WebhookReceiver() as receiver:
        async with open_with(engine, tmp_path, receiver.url) as rooms:
            failures = iter(range(3))
            announcements = rooms.webhooks._announcements
            note = announcements.note

            async def fail_first(batch: Batch, again_in_s: float | None) -> None:
                if next(failures, None) is not None:
                    raise StoreUnavailable("The metadata database cannot be written: it is full.")
                await note(batch, again_in_s)

            monkeypatch.setattr(announcements, "note", fail_first)
            ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(1))).id)
            batch = await wait_until_done(rooms, ended.id)
            assert next(failures, None) is None
        assert (len(receiver.messages), batch.webhook_tries) == (1, 1)
