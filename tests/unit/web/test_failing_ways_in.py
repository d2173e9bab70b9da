"""A disk or a database that fails at each step of a request for a file or a table: told, and well once it is."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from backfill.app import Rooms
from backfill.errors import BackfillError
from backfill.store.faults import FAILING_POINTS, failing
from bench.null.process import NullEngine
from tests.support.lines import request_line
from tests.support.rooms import OWNER, open_house, wait_for_batch
from tests.unit.web.serving import serve

CHAT = "/v1/chat/completions"
POINTS = sorted(point for point in FAILING_POINTS if point.startswith(("blob.", "metadata.")))
# More steps than any way in has.
STEPS_MAX = 60

Ask = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


async def make_requests(client: httpx.AsyncClient, table_id: str) -> httpx.Response:
    return await client.post(f"/v1/files/{table_id}/requests", json={"model": "m", "prompt": "Say {text}"})


async def create_inline(client: httpx.AsyncClient, _table_id: str) -> httpx.Response:
    line = request_line(1).decode()
    body = f'{{"endpoint": "{CHAT}", "requests": [{line}]}}'
    return await client.post("/v1/batches", content=body, headers={"content-type": "application/json"})


async def find_orphans(rooms: Rooms) -> set[str]:
    """Folders of files that no row names."""
    folders = set(rooms.blobs.list_folders("files"))
    return folders - await rooms.metadata.list_file_ids()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("ask", [make_requests, create_inline])
async def test_what_fails_at_a_step_is_a_503_and_works_when_it_is_well(
    engine: NullEngine, tmp_path: Path, ask: Ask, point: str
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        app, services = serve(rooms)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            table = {"file": ("t.csv", b"text\ngood\nbad\n")}
            table_id = (await client.post("/v1/files", data={"purpose": "table"}, files=table)).json()["id"]
            for first in range(1, STEPS_MAX):
                with failing(point, first=first) as failure:
                    answer = await ask(client, table_id)
                assert answer.status_code in {200, 201, 503}, answer.text
                if answer.status_code == 503:
                    assert failure.failed
                    assert "Traceback" not in answer.text
                assert (await ask(client, table_id)).status_code in {200, 201}
                if not failure.failed:
                    break
            else:
                pytest.fail(f"{point} fails for ever")
            for batch in await rooms.metadata.list_batches(OWNER, limit=200):
                ended = await wait_for_batch(rooms, batch.id)
                assert (ended.counts.answered, ended.counts.failed) == (1, 0)
        services.stopping.set()
    # What a failed removal left goes with the next start.
    async with open_house(tmp_path, engine.url) as rooms:
        assert await find_orphans(rooms) == set()


@pytest.mark.parametrize("point", ["blob.read", "metadata.read"])
async def test_a_table_of_results_is_whole_or_told_as_cut(engine: NullEngine, tmp_path: Path, point: str) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        app, services = serve(rooms)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            batch_id = (await create_inline(client, "")).json()["job"]["id"]
            await wait_for_batch(rooms, batch_id)
            way = f"/v1/batches/{batch_id}/results?format=csv"
            whole = (await client.get(way)).content
            assert whole.count(b"\n") == 2
            for first in range(1, STEPS_MAX):
                with failing(point, first=first) as failure:
                    answer = await fetch(client, way)
                # Cut off: a client over HTTP sees that the last chunk is missing.
                assert answer is None or answer.status_code == 503 or answer.content == whole
                assert (await client.get(way)).content == whole
                if not failure.failed:
                    break
            else:
                pytest.fail(f"{point} fails for ever")
        services.stopping.set()


async def fetch(client: httpx.AsyncClient, way: str) -> httpx.Response | None:
    """The answer; None if it was cut off."""
    try:
        return await client.get(way)
    except BackfillError:
        return None
