"""Lines of one batch that go one way: the same model, hence the same replicas."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from backfill.engines import Replica, Route, rename_model

if TYPE_CHECKING:
    from array import array

    from backfill.dispatch.open_turn import OpenTurn

__all__ = ["Lane"]


class Lane:
    """The lines of one route in planned order, first those that came back."""

    def __init__(self, turn: "OpenTurn", route: Route, lines: "array[int]", *, insert_model: bool) -> None:
        self.turn = turn
        self.route = route
        self._lines = lines
        self._position = 0
        self._returned: deque[int] = deque()
        self._insert_model = insert_model
        self._wakers: list[Callable[[], None]] = []
        self.is_open = True

    def subscribe(self, waker: Callable[[], None]) -> None:
        """Have `waker` called when a line comes back."""
        self._wakers.append(waker)

    def take(self) -> int | None:
        """The next line to send; None if there is none now."""
        if not self.is_open:
            return None
        if self._returned:
            return self._returned.popleft()
        if self._position < len(self._lines):
            line = self._lines[self._position]
            self._position += 1
            return line
        return None

    def put_back(self, line: int) -> None:
        """Offer a line again, before all others."""
        self._returned.append(line)
        for waker in self._wakers:
            waker()

    def close(self) -> None:
        """Give out no line any more."""
        self.is_open = False

    def body_for(self, replica: Replica, body: bytes) -> bytes:
        """The line's body as `replica` wants it: the line's own bytes unless the model has another name there."""
        if self._insert_model:
            return rename_model(body, self.route.names[replica.name])
        return self.route.body_for(replica, body)
