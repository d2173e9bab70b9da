"""Lines with pictures that are left for a worker which serves their model: it gets the pictures, or nobody does."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.company import Company
from tests.support.machines import Machines
from tests.support.media_servers import EngineWithEyes, PictureServer
from tests.support.server_process import BackfillServer

LINES = 12
MODELS = ("model-a", "model-b")


@pytest.fixture
async def pictures() -> AsyncIterator[PictureServer]:
    async with PictureServer() as running:
        yield running


@pytest.fixture
async def engines() -> AsyncIterator[dict[str, EngineWithEyes]]:
    """Model -> who serves it."""
    async with EngineWithEyes() as first, EngineWithEyes() as second:
        yield dict(zip(MODELS, (first, second), strict=True))


class Site:
    """Processes that answer HTTP, and a worker for each model, which may fetch pictures from a test's server."""

    def __init__(self, company: Company, engines: dict[str, EngineWithEyes], settings: dict[str, str]) -> None:
        self.company = company
        settings = settings | {
            "server__role": "work",
            "server__lease_s": "1.5",
            "media__allow": '["127.0.0.1/32"]',
            "media__allow_http": "true",
        }
        self.workers = {
            model: BackfillServer(
                company.find_folder(model), engine.url, engines__null__models=json.dumps([model]), **settings
            )
            for model, engine in engines.items()
        }

    def begin(self, stack: ExitStack) -> None:
        """Both tell of themselves, and one ends."""
        for model, worker in self.workers.items():
            stack.enter_context(worker)
            self.company.wait_until(partial(self._has_told, model))
        self.workers["model-b"].terminate()

    def _has_told(self, model: str) -> bool:
        query = "SELECT 1 FROM workers WHERE CAST(told AS TEXT) LIKE ?"
        return bool(self.company.run(query, f'%"{model}"%'))

    def create(self, pictures: PictureServer) -> str:
        """A batch whose lines ask about a picture each, of the models in turn; once it waits for a worker."""
        lines = [json.dumps(seeing_line(number, pictures.link(number))) for number in range(LINES)]
        client = self.company.client
        batch_id = client.create(client.upload("\n".join(lines).encode()))
        self.company.wait_until(lambda: "model-b" in client.retrieve(batch_id).get("waiting", {}).get("message", ""))
        return batch_id

    def read_ids(self, batch: dict[str, Any], kind: str) -> list[str]:
        """The names of the lines in a file of results."""
        found = self.company.client.download(batch[f"{kind}_file_id"])
        return [json.loads(line)["custom_id"] for line in found]


def seeing_line(number: int, link: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": f"text {number}"}, {"type": "image_url", "image_url": {"url": link}}]
    body = {"model": MODELS[number % 2], "messages": [{"role": "user", "content": parts}]}
    return {"custom_id": f"request-{number}", "body": body}


def ids(first: int) -> list[str]:
    return [f"request-{number}" for number in range(first, LINES, 2)]


def shows(body: bytes, number: int) -> bool:
    return base64.b64encode(PictureServer.picture(number)) in body


@pytest.fixture(params=["disk", pytest.param("elsewhere", marks=pytest.mark.scale)])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, engines: dict[str, EngineWithEyes]
) -> Iterator[tuple[Site, ExitStack]]:
    """With what the processes share on one disk or elsewhere; its workers end with the stack."""
    with ExitStack() as stack:
        if request.param == "disk":
            company, settings = Company(tmp_path / "data", "", workers=0), {}
        else:
            store = request.getfixturevalue("remote_store")
            company, settings = Machines(tmp_path, "", store, workers=0), store.settings
        yield Site(stack.enter_context(company), engines, settings), stack


async def test_who_serves_their_model_gets_the_pictures(
    site: tuple[Site, ExitStack], engines: dict[str, EngineWithEyes], pictures: PictureServer
) -> None:
    here, stack = site
    await asyncio.to_thread(here.begin, stack)
    batch_id = await asyncio.to_thread(here.create, pictures)
    assert len(engines["model-a"].raw) == LINES // 2
    await asyncio.to_thread(here.workers["model-b"].start)
    batch = await asyncio.to_thread(here.company.client.wait_for_end, batch_id)
    assert batch["status"] == "COMPLETED"
    assert await asyncio.to_thread(here.read_ids, batch, "output") == [f"request-{number}" for number in range(LINES)]
    for first, model in enumerate(MODELS):
        sent = dict(zip(engines[model].texts, engines[model].raw, strict=True))
        assert sorted(sent) == sorted(f"text {number}" for number in range(first, LINES, 2))
        assert len(engines[model].raw) == LINES // 2
        assert all(shows(sent[f"text {number}"], number) for number in range(first, LINES, 2))


async def test_a_cancel_meanwhile_ends_them(
    site: tuple[Site, ExitStack], engines: dict[str, EngineWithEyes], pictures: PictureServer
) -> None:
    here, stack = site
    client = here.company.client
    await asyncio.to_thread(here.begin, stack)
    batch_id = await asyncio.to_thread(here.create, pictures)
    await asyncio.to_thread(client.request, "POST", f"/v1/batches/{batch_id}/cancel")
    batch = await asyncio.to_thread(client.wait_for_end, batch_id)
    assert batch["status"] == "CANCELLED"
    assert await asyncio.to_thread(here.read_ids, batch, "output") == ids(0)
    assert await asyncio.to_thread(here.read_ids, batch, "error") == ids(1)
    # The one that comes later finds nothing to do.
    await asyncio.to_thread(here.workers["model-b"].start)
    second = await asyncio.to_thread(here.company.client.upload, json.dumps(seeing_line(1, pictures.link(1))).encode())
    later = await asyncio.to_thread(client.create, second)
    assert (await asyncio.to_thread(client.wait_for_end, later))["status"] == "COMPLETED"
    assert engines["model-b"].texts == ["text 1"]
