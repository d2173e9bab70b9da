"""Places of the null engine: at most so many requests are served at once, the rest wait in the order they came."""

from collections import deque
from collections.abc import Callable

from bench.null.answers import Behaviour

__all__ = ["Places"]


class Places:
    """The places of all connections together, as many as the behaviour says now; 0: no bound."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._taken = 0
        self._waiting: deque[Callable[[], bool]] = deque()

    def enter(self, begin: Callable[[], bool]) -> None:
        """Call `begin` once there is a place, now or later; it tells whether it takes the place."""
        self._waiting.append(begin)
        self.fill()

    def leave(self) -> None:
        """Give a place back."""
        self._taken -= 1
        self.fill()

    def fill(self) -> None:
        """Give free places to those that wait; to be called when the behaviour has changed."""
        while self._waiting and (not self._behaviour.places or self._taken < self._behaviour.places):
            if self._waiting.popleft()():
                self._taken += 1
