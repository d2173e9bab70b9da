"""Each write and read of the store fails, once and for a while, at every step: once it is well again, all ends."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from backfill.app import Rooms, open_rooms, working
from backfill.batch import Batch, State
from backfill.config import load_config
from backfill.deliver import Deliverer, ServerReceiver, WebhookSender, deliverer, webhooks
from backfill.dispatch import Dispatcher, dispatcher
from backfill.errors import StoreUnavailable
from backfill.intake import Retention
from backfill.store import WebhookKind
from backfill.store.faults import FAILING_POINTS, Failure, failing
from backfill.turns import Announcements, Turns, setbacks
from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.webhook_receiver import SECRET, WebhookReceiver
from tests.unit.web.serving import serve

LINES = 6
STEPS_TRIED = 4
"""Of the times that a walk reaches a point, in the quick set; the slow one tries them all."""
A_WHILE = 5
"""Failures in a row."""
_POLL_S = 0.005
_TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setbacks, "_PAUSE_S", 0.005)
    monkeypatch.setattr(setbacks, "_PAUSE_MAX_S", 0.02)
    for loop in (dispatcher, deliverer, webhooks):
        monkeypatch.setattr(loop, "_TICK_S", 0.05)
    monkeypatch.setattr(dispatcher, "_RENEWALS_A_LEASE", 600)


@asynccontextmanager
async def open_house(folder: Path, engine: NullEngine, receiver: WebhookReceiver) -> AsyncIterator[Rooms]:
    """As `app` wires it, with a retention that removes at once what expires some day, and leases that soon run out."""
    overrides = {
        "data_dir": str(folder),
        "engines": {"null": {"url": engine.url, "concurrency": 2}},
        "webhooks": {"url": receiver.url, "secret": SECRET},
        # Uploads in parts expire later than what retention takes away here.
        "server.upload_url_valid_s": 86_400,
    }
    async with open_rooms(load_config(environment={}, overrides=overrides)) as rooms:
        config, inputs = rooms.config, rooms.intake.inputs
        turns = Turns(rooms.metadata, config.limits, announces_ends=True, lease_ms=100)
        house = replace(
            rooms,
            turns=turns,
            dispatcher=Dispatcher(turns, rooms.blobs, rooms.fleet, config.dispatch, inputs.check_content),
            deliverer=Deliverer(turns, rooms.blobs, inputs.check_index),
            webhooks=WebhookSender(
                Announcements(rooms.metadata, WebhookKind.SERVER),
                ServerReceiver(config.webhooks),
                config.webhooks,
                turns.setbacks,
                turns.subscribe(),
            ),
            retention=Retention(rooms.intake, rooms.metadata, tick_s=0.05, grace_s=-7200),
        )
        async with working(house) as work:
            yield house
            assert not work.done(), "a loop has ended"


class Walk:
    """A client that does all that a client does, and asks again whenever the server is out for the moment."""

    def __init__(self, rooms: Rooms, http: httpx.AsyncClient) -> None:
        self._rooms = rooms
        self._http = http

    async def ask(self, method: str, path: str, *statuses: int, **options: Any) -> httpx.Response:
        while True:
            response = await self._http.request(method, path, **options)
            if response.status_code in (statuses or (200, 201)):
                return response
            assert response.status_code == 503, (method, path, response.status_code, response.text)
            await asyncio.sleep(_POLL_S)

    async def upload(self, data: bytes, **fields: str) -> str:
        form = {"purpose": "batch-api"} | fields
        return str((await self.ask("POST", "/v1/files", data=form, files={"file": ("i.jsonl", data)})).json()["id"])

    async def put(self, data: bytes) -> str:
        form = {"purpose": "batch-api", "file_name": "i.jsonl"}
        reserved = await self.ask("POST", "/v1/files", 302, data=form)
        # If the file was complete when that was not told, the same bytes are welcome again.
        await self.ask("PUT", reserved.headers["location"], content=data)
        return str(reserved.headers["x-together-file-id"])

    async def upload_parts(self, data: bytes) -> str:
        form = {"purpose": "batch", "filename": "i.jsonl", "bytes": len(data), "mime_type": "text/plain"}
        upload = (await self.ask("POST", "/v1/uploads", json=form)).json()["id"]
        parts = [
            (await self.ask("POST", f"/v1/uploads/{upload}/parts", files={"data": piece})).json()["id"]
            for piece in (data[:100], data[100:])
        ]
        done = await self.ask("POST", f"/v1/uploads/{upload}/complete", json={"part_ids": parts})
        return str(done.json()["file"]["id"])

    async def create(self, file_id: str) -> str:
        body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
        headers = {"idempotency-key": str(uuid.uuid4())}
        path = "/together/v1/batches"
        return str((await self.ask("POST", path, json=body, headers=headers)).json()["job"]["id"])

    async def go(self) -> None:
        """Files in all three ways, a batch that completes, one that is cancelled, one that is rejected."""
        # Nobody reads this one: retention takes it away.
        expiring = await self.upload(
            request_lines(1), **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        )
        data = request_lines(LINES)
        put = await self.put(data)
        parted = await self.upload_parts(data)
        completed = await self.create(put)
        cancelled = await self.create(parted)
        rejected = await self.create(await self.upload(b"[]\n"))
        await self.ask("POST", f"/v1/batches/{cancelled}/cancel", 200, 400)
        ended = [await self.wait_for(batch_id) for batch_id in (completed, cancelled, rejected)]
        assert [ended[0].state, ended[2].state] == [State.COMPLETED, State.FAILED]
        assert ended[1].state in {State.CANCELLED, State.COMPLETED}
        assert ended[0].counts.answered == LINES
        assert ended[1].counts.done == LINES
        content = await self.ask("GET", f"/v1/files/{ended[0].output_file_id}/content")
        custom_ids = [json.loads(line)["custom_id"] for line in content.text.splitlines()]
        assert custom_ids == [f"request-{number}" for number in range(LINES)]
        await self.ask("DELETE", f"/v1/files/{put}", 200, 404)
        await eventually(lambda: self.has_settled(expiring, put))

    async def wait_for(self, batch_id: str) -> Batch:
        """The batch once it has ended and the outside was told."""
        while True:
            try:
                batch = await self._rooms.metadata.get_batch(batch_id)
            except StoreUnavailable:
                continue
            if batch.state.is_final and batch.webhook_due_at_ms is None:
                return batch
            await asyncio.sleep(_POLL_S)

    async def has_settled(self, *removed: str) -> bool:
        """Nothing is at work, noted as failed, or left lying about."""
        rooms = self._rooms
        try:
            known = await rooms.metadata.list_file_ids()
            folders = set(await asyncio.to_thread(rooms.blobs.list_folders, "files"))
        except StoreUnavailable:
            return False
        scraps = await asyncio.to_thread(find_scraps, rooms.config.data_dir / "blobs")
        is_tidy = folders <= known and not known & set(removed) and not scraps
        return is_tidy and not (rooms.intake.left or rooms.turns.setbacks._setbacks or rooms.dispatcher.open_batches)


def find_scraps(blobs: Path) -> list[str]:
    """Blobs that are half written, and parts of files; folders may go while this looks."""
    return [
        name
        for _, folders, names in os.walk(blobs)
        for name in (*folders, *names)
        if name == "parts" or name.endswith(".partial")
    ]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(_POLL_S)


async def walk(rooms: Rooms, point: str, first: int, times: int) -> Failure:
    app, _ = serve(rooms)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=_TIMEOUT_S) as http:
        with failing(point, first=first, times=times) as failure:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await Walk(rooms, http).go()
            except TimeoutError:
                pytest.fail(f"stuck, as {point} failed {failure.failed} times from the {first}. on")
        return failure


async def try_every_step(rooms: Rooms, point: str, steps: int | None) -> None:
    reached = (await walk(rooms, point, first=1 << 30, times=0)).reached
    assert reached, f"nothing of all this reaches {point}"
    stride = 1 if steps is None else max(1, reached // steps)
    for first in range(1, reached + 1, stride):
        for times in (1, A_WHILE):
            await walk(rooms, point, first, times)


@pytest.mark.parametrize("point", sorted(FAILING_POINTS))
async def test_what_fails_is_tried_again(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path, point: str
) -> None:
    with capture_logs():
        async with open_house(tmp_path, engine, receiver) as rooms:
            await try_every_step(rooms, point, STEPS_TRIED)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("point", sorted(FAILING_POINTS))
async def test_what_fails_at_any_step_is_tried_again(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path, point: str
) -> None:
    with capture_logs():
        async with open_house(tmp_path, engine, receiver) as rooms:
            await try_every_step(rooms, point, None)
