"""Pages that stay fresh: their parts as server-sent events (WHATWG HTML, 9.2), once a second, where they changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from backfill.api_key import Caller
from backfill.errors import BackfillError
from backfill.web.api.errors import find_status
from backfill.web.dashboard.batch_page import build_batch, find_batch
from backfill.web.dashboard.batches_page import build_batches, read_wanted
from backfill.web.dashboard.house import House
from backfill.web.dashboard.overview import build_overview
from backfill.web.dashboard.sessions import COOKIE
from backfill.web.dashboard.ticker import Parts, Ticker
from backfill.web.dashboard.visit import HEADERS, ROOT, Visit

__all__ = ["PARTS", "LivePages"]

_LIFE_CHECK_TICKS = 10
PARTS = {
    "overview": {
        "cards": "overview/cards.html",
        "engines": "overview/engines.html",
        "running": "overview/running.html",
        "ended": "overview/ended.html",
    },
    "batches": {"list": "batches/list.html", "bulk": "batches/bulk.html"},
    "batch": {
        "head": "batch/head.html",
        "charts": "batch/charts.html",
        "money": "batch/money.html",
        "failures": "batch/failures.html",
    },
}
"""Page -> id of an element -> the template of what is in it."""


class _Look(NamedTuple):
    """What one viewer looks at. Those who see the same share it."""

    page: str
    owner: str | None
    query: tuple[tuple[str, str], ...]
    may_work: bool
    token: str
    """Of the forms in the parts; empty where all viewers are the same nobody."""


class LivePages:
    """Answers the streams."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._ticker = Ticker(self._render)

    @property
    def viewers(self) -> int:
        """How many pages are open."""
        return self._ticker.viewers

    async def answer(self, request: Request) -> Response:
        """A stream of events, until the viewer goes, his key is revoked, or the server stops."""
        cookie = request.cookies.get(COOKIE)
        try:
            caller = await self._house.sessions.find_caller(cookie)
            if caller is None:
                return PlainTextResponse("Log in first.", 401, HEADERS)
            look = await self._find_look(request, caller)
        except BackfillError as error:
            return PlainTextResponse(error.message, find_status(error), HEADERS)
        headers = HEADERS | {"x-accel-buffering": "no"}
        return StreamingResponse(self._stream(look, cookie), 200, headers, "text/event-stream")

    async def _find_look(self, request: Request, caller: Caller) -> _Look:
        visit = Visit(request, self._house, caller)
        query = dict(request.query_params)
        page = query.pop("page", "")
        page = page if page in PARTS else "overview"
        if page == "batch":
            await find_batch(self._house, query.get("batch", ""), visit.owner)
        frame = visit.frame()
        return _Look(page, visit.owner, tuple(sorted(query.items())), frame["may_work"], frame["token"])

    async def _stream(self, look: _Look, cookie: str | None) -> AsyncIterator[bytes]:
        ticks = 0
        async for parts in self._until_stopped(self._ticker.follow(look)):
            ticks += 1
            if ticks % _LIFE_CHECK_TICKS == 0 and await self._house.sessions.find_caller(cookie) is None:
                return
            # A comment, where nothing changed, finds out whether anybody is still there.
            yield b"data: " + msgspec.json.encode(parts) + b"\n\n" if parts else b":\n\n"

    async def _until_stopped(self, ticks: AsyncIterator[Parts]) -> AsyncIterator[Parts]:
        stopping = asyncio.create_task(self._house.services.stopping.wait())
        following: asyncio.Future[Parts] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(ticks))
                await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                yield following.result()
        finally:
            # Of a viewer who goes nothing may be left that asks: its page would be rendered for ever.
            asking = [task for task in (following, stopping) if task is not None]
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            await ticks.aclose()  # type: ignore[attr-defined]  # an asynchronous generator

    async def _render(self, look: _Look) -> Parts:
        build = _BUILDERS[look.page]
        frame = {"root": ROOT, "token": look.token, "may_work": look.may_work}
        context = frame | await build(self._house, look.owner, dict(look.query))
        return {name: self._house.render(template, context) for name, template in PARTS[look.page].items()}


async def _build_overview(house: House, owner: str | None, _query: dict[str, str]) -> dict[str, Any]:
    return await build_overview(house, owner)


async def _build_batches(house: House, owner: str | None, query: dict[str, str]) -> dict[str, Any]:
    return await build_batches(house, owner, read_wanted(query))


async def _build_batch(house: House, owner: str | None, query: dict[str, str]) -> dict[str, Any]:
    return await build_batch(house, owner, query.get("batch", ""))


_BUILDERS: dict[str, Callable[[House, str | None, dict[str, str]], Awaitable[dict[str, Any]]]] = {
    "overview": _build_overview,
    "batches": _build_batches,
    "batch": _build_batch,
}
