"""Live requests at one replica, for whoever makes room for them: counted here, and read by who feeds batches."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["FirstToken", "Presence", "Visit"]

_SAMPLES_KEPT = 256


@dataclass(frozen=True, slots=True)
class FirstToken:
    """How long a live request waited for its first token."""

    at_s: float
    """When it came, on the event loop's clock."""
    duration_s: float
    size_bytes: int
    """Of the request."""
    is_alone: bool
    """No other live request waited for its first token when this one arrived: none of ours held it up."""
    batches: int
    """Requests of batches that were there when it arrived."""


class Presence:
    """Who is at the replica now. Without live requests it costs nothing."""

    def __init__(self) -> None:
        self.running = 0
        """Live requests that the replica has."""
        self.waiting = 0
        """Those of them whose first token has not come."""
        self.count_batches: Callable[[], int] = lambda: 0
        """Requests of batches there, as who feeds them says."""
        self.arrived_at_s: float | None = None
        """When the last one arrived, on the event loop's clock; None: none has ever."""
        self.left_at_s: float | None = None
        """When the last one left."""
        self.first_tokens: deque[FirstToken] = deque(maxlen=_SAMPLES_KEPT)
        """What has not been looked at yet; whoever looks takes them out."""
        self._listeners: list[Callable[[], None]] = []

    @property
    def load(self) -> int:
        """All requests there, ours of both kinds."""
        return self.running + self.count_batches()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when a live request arrives, has its first token or leaves."""
        self._listeners.append(listener)

    def enter(self, size_bytes: int, *, is_stream: bool) -> "Visit":
        """A live request of so many bytes is about to be sent; only of a stream the first token shows."""
        now_s = asyncio.get_running_loop().time()
        arrival = FirstToken(now_s, 0.0, size_bytes, is_alone=not self.waiting, batches=self.count_batches())
        visit = Visit(self, arrival, is_told=is_stream)
        self.running += 1
        self.waiting += 1
        self.arrived_at_s = now_s
        self._tell()
        return visit

    def note_first_token(self, first: FirstToken | None) -> None:
        """A request waits no more, because its first token came or because it leaves (None)."""
        self.waiting -= 1
        if first is not None:
            self.first_tokens.append(first)
            self._tell()

    def leave(self) -> None:
        """A request is over."""
        self.running -= 1
        self.left_at_s = asyncio.get_running_loop().time()
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class Visit:
    """One live request, from before it is sent to its end."""

    __slots__ = ("_arrival", "_has_left", "_is_told", "_presence", "_waits")

    def __init__(self, presence: Presence, arrival: FirstToken, *, is_told: bool) -> None:
        self._presence = presence
        self._arrival = arrival
        self._is_told = is_told
        self._waits = True
        self._has_left = False

    def note_first_token(self, *, is_told: bool = False) -> None:
        """The answer begins; only the first call counts. `is_told`: the engine says so, stream or not."""
        if self._waits:
            self._waits = False
            now_s, arrival = asyncio.get_running_loop().time(), self._arrival
            first = replace(arrival, at_s=now_s, duration_s=now_s - arrival.at_s)
            self._presence.note_first_token(first if self._is_told or is_told else None)

    def leave(self) -> None:
        """The request is over, however it ended; only the first call counts."""
        if self._waits:
            self._waits = False
            self._presence.note_first_token(None)
        if not self._has_left:
            self._has_left = True
            self._presence.leave()
