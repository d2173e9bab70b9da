"""The door to the pages: light, so that a server without viewers does not load what draws them."""

import asyncio
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from backfill.web import dashboard
from backfill.web.api.services import Services
from backfill.web.dashboard.history import EngineHistory

if TYPE_CHECKING:
    from backfill.web.dashboard.house import House

__all__ = ["Dashboard"]


class Dashboard:
    """An ASGI application that is made when somebody looks for the first time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._history = EngineHistory(services.list_replicas)
        self._app: ASGIApp | None = None
        self._house: House | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the pages."""
        app = self._app
        if app is None:
            app = await self._make()
        await app(scope, receive, send)

    async def run(self) -> None:
        """Keep the history of the engines, until cancelled."""
        await self._history.run()

    def close(self) -> None:
        """Give all descriptors back."""
        if self._house is not None:
            self._house.close()

    async def _make(self) -> ASGIApp:
        async with self._making:
            if self._app is None:
                self._house, app = await asyncio.to_thread(_build, self._services, self._history)
                self._app = app
            return self._app


def _build(services: Services, history: EngineHistory) -> "tuple[House, ASGIApp]":
    # Loaded here, as the room's names are when they are asked for.
    house = dashboard.House(services, history)
    return house, dashboard.make_pages(house)
