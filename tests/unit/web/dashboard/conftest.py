"""Pages over rooms that are at work, asked as a browser asks them."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backfill.app import Rooms
from backfill.web.api import Services, create_app
from backfill.web.dashboard import Dashboard
from bench.null.process import NullEngine
from tests.support.rooms import open_house
from tests.unit.web.serving import serve

ROOT = "/dashboard"


class Browser:
    """A client that keeps cookies, finds forms and sends them."""

    def __init__(self, app: FastAPI, services: Services) -> None:
        self.services = services
        self.app = app
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost", follow_redirects=True)

    async def see(self, path: str) -> str:
        """The text of a page that is there."""
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.text

    async def send(self, path: str, page: str, **fields: Any) -> httpx.Response:
        """A form of `page`, with its token."""
        return await self.client.post(path, data={"token": find_token(page)} | fields)


def find_token(page: str) -> str:
    """The token that the forms of a page bring."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found is not None, page
    return found[1]


def read_fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that goes to `action`."""
    form = re.search(rf'<form method="post" action="{re.escape(action)}".*?</form>', page, re.DOTALL)
    assert form is not None, page
    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0]))


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None)


@asynccontextmanager
async def open_pages(folder: Path, engine: NullEngine, **settings: Any) -> AsyncIterator[tuple[Rooms, Browser]]:
    """The rooms, and somebody who looks at them."""
    async with open_house(folder, engine.url, **settings) as rooms:
        _, services = serve(rooms)
        pages = Dashboard(services)
        browser = Browser(create_app(services, pages), services)
        async with browser.client:
            yield rooms, browser
        services.stopping.set()
        pages.close()
