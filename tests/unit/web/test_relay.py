"""Which worker a live request is passed on to, and what becomes of it when that one fails; who may pass any on."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backfill.api_key import Caller
from backfill.app import Rooms
from backfill.live import OWNER_HEADER, RELAY_PATH, make_relay_key
from backfill.status import Offer, ServedModel, WorkerReport, WorkerStatus
from tests.support.live_engine import LiveEngine, Received
from tests.support.replicas import make_replica
from tests.support.rooms import open_house, wait_until
from tests.unit.web.asgi import Stream
from tests.unit.web.relaying import SECRET, WORKER_ID, Seen, make_worker, open_relayed, open_worker

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "small", "messages": []}).encode()
CHATS = (ServedModel("small", (CHAT,)),)


@pytest.fixture
async def engine() -> AsyncIterator[LiveEngine]:
    async with LiveEngine() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[LiveEngine]:
    async with LiveEngine() as running:
        yield running


class Two:
    """Two workers, and a process that passes live requests on to them."""

    def __init__(self, app: FastAPI, seen: Seen, rooms: list[Rooms], ends: list[AsyncExitStack]) -> None:
        self.app = app
        self.seen = seen
        self.rooms = rooms
        self._ends = ends

    async def end(self, number: int) -> None:
        """Nobody listens there any more; it is not told."""
        await self._ends[number].aclose()

    def ask(self, body: bytes = BODY, path: str = CHAT) -> Stream:
        return Stream(self.app, path, method="POST", body=body)

    async def read(self, body: bytes = BODY) -> tuple[int, dict[str, Any]]:
        async with asyncio.timeout(30), self.ask(body) as stream:
            return stream.status, json.loads(await stream.read_all())


@asynccontextmanager
async def open_two(tmp_path: Path, engine: LiveEngine, other: LiveEngine, **settings: Any) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        seen, opened, ends = Seen(), [], []
        for number, each in enumerate((engine, other)):
            folder = tmp_path / f"worker-{number}"
            opened.append(await stack.enter_async_context(open_house(folder, each.url, **settings)))
            ends.append(await stack.enter_async_context(AsyncExitStack()))
            seen.workers.append(await ends[-1].enter_async_context(open_worker(opened[-1], f"worker-{number}")))
        app = await stack.enter_async_context(open_relayed(opened[0], seen))
        yield Two(app, seen, opened, ends)


def answer(received: Received) -> None:
    received.send(b"{}")
    received.end()


def tell(worker: WorkerStatus, **report: Any) -> WorkerStatus:
    told = {name: getattr(worker.report, name) for name in WorkerReport.__struct_fields__} | report
    return make_worker(worker.id, WorkerReport(**told), host=worker.host, seen_at_ms=worker.seen_at_ms + 1)


async def test_a_second_request_goes_to_the_worker_that_has_none(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    async with open_two(tmp_path, engine, other) as two, asyncio.timeout(30), two.ask(), two.ask():
        for each in (engine, other):
            (await each.received.get()).end()


async def test_what_workers_tell_of_their_live_requests_counts(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = other.on_request = answer
    async with open_two(tmp_path, engine, other) as two:
        for busy, idle in ((0, 1), (1, 0)):
            loads = {busy: 3, idle: 1}
            two.seen.workers = [
                tell(worker, replicas=(make_replica("null", live_in_flight=loads[number]),))
                for number, worker in enumerate(two.seen.workers)
            ]
            before = (engine.received.qsize(), other.received.qsize())
            assert (await two.read())[0] == 200
            after = (engine.received.qsize(), other.received.qsize())
            assert after[idle] == before[idle] + 1
            assert after[busy] == before[busy]


async def test_a_worker_that_is_gone_leaves_its_requests_to_another(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = other.on_request = answer
    async with open_two(tmp_path, engine, other) as two:
        await two.end(0)
        for _ in range(3):
            assert (await two.read())[0] == 200
        assert (engine.received.qsize(), other.received.qsize()) == (0, 3)
        await two.end(1)
        status, body = await two.read()
        assert (status, body["error"]["code"]) == (503, "engine_unavailable")
        assert "127.0.0.1" not in body["error"]["message"]


async def test_a_worker_whose_engine_is_down_leaves_its_requests_to_another(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    other.on_request = answer
    async with open_two(tmp_path, engine, other) as two:
        await engine.stop()
        assert (await two.read())[0] == 200


async def test_an_engines_own_error_is_the_answer_and_nobody_else_is_asked(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    for each in (engine, other):
        each.status, each.on_request = 503, answer
    async with open_two(tmp_path, engine, other) as two:
        assert await two.read() == (503, {})
        assert engine.received.qsize() + other.received.qsize() == 1


async def test_an_engine_that_breaks_off_costs_no_second_one_a_request(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    asked: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line.startswith(b"POST"):
            asked.append(line)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        engine.url = other.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with open_two(tmp_path, engine, other) as two:
            status, body = await two.read()
            assert (status, body["error"]["code"]) == (502, "connection_lost")
            assert len(asked) == 1


@pytest.mark.parametrize("where", ["silent", "living"])
async def test_a_silent_worker_is_asked_only_where_nobody_else_is(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path, where: str
) -> None:
    engine.on_request = other.on_request = answer
    async with open_two(tmp_path, engine, other) as two:
        # Where the database is away all are silent, and all may be well.
        two.seen.silent = {"worker-0"} if where == "living" else {"worker-0", "worker-1"}
        assert (await two.read())[0] == 200
        assert other.received.qsize() == (1 if where == "living" else 0)


async def test_who_lists_the_model_goes_before_who_takes_any(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = other.on_request = answer
    async with open_two(tmp_path, engine, other) as two:
        first, second = two.seen.workers
        listing = tell(second, offers={"null": Offer(("small",), (CHAT,))}, models=CHATS, any_model_at=())
        two.seen.workers = [first, listing]
        assert (await two.read())[0] == 200
        assert (await two.read(BODY.replace(b"small", b"large")))[0] == 200
        assert (other.received.qsize(), engine.received.qsize()) == (1, 1)


async def test_a_model_that_nobody_serves_now_may_come_back(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    async with open_two(tmp_path, engine, other) as two:
        listed = [
            tell(worker, offers={"null": Offer(("other",), (CHAT,))}, models=(), any_model_at=())
            for worker in two.seen.workers
        ]
        two.seen.workers = listed
        assert (await two.read())[0] == 404
        two.seen.ended = [make_worker("gone", WorkerReport(models=CHATS).end())]
        status, body = await two.read()
        assert (status, body["error"]["code"]) == (503, "engine_unavailable")
        assert "runs now" in body["error"]["message"]
        # And where no worker runs at all, nobody can say which models there are.
        two.seen.workers = two.seen.ended = []
        assert (await two.read())[0] == 503


async def test_a_worker_that_serves_it_no_more_leaves_it_to_another(
    engine: LiveEngine, other: LiveEngine, tmp_path: Path
) -> None:
    other.on_request = answer
    engines = {"null": {"url": engine.url, "models": ["large"]}}
    async with (
        open_house(tmp_path / "changed", engine.url, engines=engines) as changed,
        open_house(tmp_path / "same", other.url) as same,
        open_worker(changed, "a") as first,
        open_worker(same, "b") as second,
    ):
        stale = tell(first, offers={"null": Offer(("*",), (CHAT,))})
        seen = Seen([stale, second])
        async with open_relayed(same, seen) as app, Stream(app, CHAT, method="POST", body=BODY) as stream:
            assert stream.status == 200
            await stream.read_all()
        assert engine.received.empty()


async def test_a_loopback_address_of_another_machine_is_never_called(engine: LiveEngine, tmp_path: Path) -> None:
    engine.on_request = answer
    async with open_house(tmp_path, engine.url) as rooms, open_worker(rooms) as worker:
        far = make_worker(worker.id, worker.report, host=f"not-{socket.gethostname()}")
        async with open_relayed(rooms, Seen([far])) as app, Stream(app, CHAT, method="POST", body=BODY) as stream:
            assert stream.status == 503
            await stream.read_all()
        assert engine.received.empty()


async def test_a_worker_that_dies_in_mid_answer_ends_a_stream_with_an_error(engine: LiveEngine, tmp_path: Path) -> None:
    async with AsyncExitStack() as worker_ends, open_house(tmp_path, engine.url) as rooms:
        worker = await worker_ends.enter_async_context(open_worker(rooms))
        async with (
            asyncio.timeout(30),
            open_relayed(rooms, Seen([worker])) as app,
            Stream(app, CHAT, method="POST", body=BODY[:-1] + b',"stream":true}') as stream,
        ):
            received = await engine.received.get()
            received.send(b"data: 1\n\n")
            assert await stream.read_piece() == b"data: 1\n\n"
            ending = asyncio.create_task(worker_ends.aclose())
            event = json.loads((await stream.read_all()).removeprefix(b"data: "))
            assert event["error"]["code"] == "connection_lost"
            await received.cancelled.wait()
            await ending


async def test_only_who_has_the_workers_own_key_may_pass_requests_on(engine: LiveEngine, tmp_path: Path) -> None:
    engine.on_request = answer
    user_key = "sk-of-a-user-with-every-scope"
    async with (
        open_house(tmp_path, engine.url, server__api_keys=[user_key]) as rooms,
        open_worker(rooms) as worker,
        httpx.AsyncClient(base_url=worker.report.address, trust_env=False) as client,
    ):
        own = make_relay_key(SECRET, WORKER_ID)
        refused = ["", user_key, own[:-1], f"{own}0", "é", make_relay_key(SECRET, "worker-2"), SECRET.decode()]
        for shown in refused:
            authorization = [(b"authorization", f"Bearer {shown}".encode())] if shown else []
            response = await client.post(f"{RELAY_PATH}{CHAT}", content=BODY, headers=authorization)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert engine.received.empty()
        # Nor does it open anything else, or anything without its prefix.
        headers = {"authorization": f"Bearer {own}", OWNER_HEADER: "o"}
        assert (await client.post(CHAT, content=BODY, headers=headers)).status_code == 404
        assert (await client.get("/metrics", headers=headers)).status_code == 401
        assert (await client.post(f"{RELAY_PATH}{CHAT}", content=BODY, headers=headers)).status_code == 200


async def test_limits_are_counted_where_a_request_comes_in_and_there_alone(engine: LiveEngine, tmp_path: Path) -> None:
    engine.on_request = answer
    settings: dict[str, Any] = {"live__requests_per_minute": 3}
    async with open_house(tmp_path, engine.url, **settings) as rooms, open_worker(rooms) as worker:
        # The worker has the same settings, and would refuse the fourth of one owner.
        for _ in range(2):
            async with open_relayed(rooms, Seen([worker])) as app:
                for status in (200, 200, 200, 429):
                    async with Stream(app, CHAT, method="POST", body=BODY) as stream:
                        assert stream.status == status
                        await stream.read_all()


async def test_tokens_come_back_when_nobody_could_answer(engine: LiveEngine, tmp_path: Path) -> None:
    engine.on_request = answer
    async with open_house(tmp_path, engine.url, live__tokens_per_minute=1000) as rooms, open_worker(rooms) as worker:
        seen = Seen([worker])
        async with open_relayed(rooms, seen) as app:

            async def read_left() -> int:
                async with Stream(app, CHAT, method="POST", body=BODY) as stream:
                    await stream.read_all()
                    return int(stream.headers["x-ratelimit-remaining-tokens"])

            seen.workers = []
            assert min([await read_left() for _ in range(20)]) > 500


async def test_a_request_under_way_counts_at_the_worker_until_its_client_goes(
    engine: LiveEngine, tmp_path: Path
) -> None:
    async with open_house(tmp_path, engine.url) as rooms, open_worker(rooms) as worker:
        presence = rooms.fleet.presences["null"]
        async with open_relayed(rooms, Seen([worker])) as app, asyncio.timeout(30):
            stream = Stream(app, CHAT, method="POST", body=BODY)
            received = await engine.received.get()
            assert presence.running == 1
            stream.disconnect()
            await received.cancelled.wait()
            await stream.task
            await wait_until(lambda: presence.running == 0)


@pytest.mark.parametrize("owner", ["a/b c%", "Jürgen", "0" * 24])
async def test_the_owner_is_told_as_he_is(
    engine: LiveEngine, tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.on_request = answer
    async with open_house(tmp_path, engine.url) as rooms, open_worker(rooms) as worker:
        told: list[str] = []
        open_live: Callable[..., Any] = rooms.live.open

        async def open_noting(caller: Any, *others: Any) -> Any:
            told.append(caller.owner)
            return await open_live(caller, *others)

        monkeypatch.setattr(rooms.live, "open", open_noting)
        async with open_relayed(rooms, Seen([worker])) as app:
            live = app.state.services.live
            (await live.open(Caller(owner), CHAT, live.check(CHAT, BODY), BODY)).close()
        assert told == [owner]
