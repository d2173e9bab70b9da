"""What the pages are made with: the rooms, who is logged in, and what is remembered from one look to the next."""

import time
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backfill import __version__
from backfill.store import BatchSearch
from backfill.web.api.services import Services
from backfill.web.dashboard import drawing
from backfill.web.dashboard.history import EngineHistory, Rates
from backfill.web.dashboard.journal_views import JournalViews
from backfill.web.dashboard.sessions import Sessions
from backfill.web.dashboard.wording import FILTERS

__all__ = ["House"]

_FOLDER = Path(__file__).parent
_KEPT = 256

_Value = TypeVar("_Value")


class House:
    """Everything behind the pages."""

    def __init__(self, services: Services, history: EngineHistory) -> None:
        self.services = services
        self.history = history
        self.rates = Rates()
        self.search = BatchSearch(services.metadata.database)
        self.views = JournalViews(services.blobs)
        configured = tuple(key.get_secret_value() for key in services.config.server.api_keys)
        self.sessions = Sessions(services.keys, services.signing_key, configured)
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(version=__version__, draw_bar=drawing.draw_bar, draw_line=drawing.draw_line)

    def render(self, template: str, context: dict[str, Any]) -> str:
        """A template as text; all that is not marked as HTML is escaped."""
        return self._templates.get_template(template).render(context)

    async def keep(self, key: Hashable, age_s: float, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        """What `ask` said within the last `age_s` seconds: for sums over many rows, which change slowly."""
        now_s = time.monotonic()
        found = self._kept.get(key)
        if found is not None and now_s - found[0] < age_s:
            value: _Value = found[1]
            return value
        value = await ask()
        self._kept.pop(key, None)
        self._kept[key] = (time.monotonic(), value)
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return value

    def close(self) -> None:
        """Give all descriptors back."""
        self.views.close()
