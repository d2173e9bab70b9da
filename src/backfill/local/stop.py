"""The wish of whoever started a run that it end soon."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfill.turns import Bell

__all__ = ["Stop"]


class Stop:
    """Asked for once; what is in flight may then finish."""

    def __init__(self) -> None:
        self.came = False
        self.bell: Bell | None = None
        """Rung when it comes."""
        self._loop = asyncio.get_running_loop()

    def ask(self) -> None:
        """End soon; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self.take)

    def take(self) -> None:
        """As `ask`, from within the event loop."""
        self.came = True
        if self.bell is not None:
            self.bell.ring()
