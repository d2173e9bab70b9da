"""How many requests a replica gets at once: found while it works. Pure: times are given, nothing waits here."""

from backfill.engines import Gauges
from backfill.status import Bottleneck

__all__ = ["ConcurrencyController"]


class ConcurrencyController:
    """Finds the fewest requests in flight with which one replica gives all it can.

    Times are those of the event loop, in seconds. `limit` is read before each request, so it is a plain attribute.
    """

    def __init__(self, ceiling: int, first: int) -> None:
        self.limit = ceiling
        """Requests in flight at most, now; from 1 to the ceiling."""
        self.bottleneck = Bottleneck.UNKNOWN
        """What keeps the replica from doing more, as far as replies and gauges tell."""
        self._ceiling = ceiling
        self._first = first

    def note_reply(self, now_s: float, duration_s: float, completion_tokens: int) -> None:
        """An answer (or a refusal, with 0 tokens) came `duration_s` seconds after its request was sent."""

    def note_rejection(self, now_s: float) -> None:
        """The engine answered 429 or 503: it has too much to do."""

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, has_work: bool) -> None:
        """Look at the last second and set `limit` anew; to be called about once a second while anything is in flight.

        `has_work` tells whether lines were there that the limit held back.
        """
