"""What replicas do with their time, added up as it passes."""

import asyncio
from dataclasses import dataclass, field

__all__ = ["Meter"]


@dataclass
class Meter:
    """Of all workers; who changes a count calls `pass_time` before."""

    up: int = 0
    feeding: int = 0
    unsent: int = 0
    """Turns of which lines are left to be sent, whoever has them or nobody; those of batches that nobody has judged
    among them."""
    feeding_s: float = 0.0
    possible_s: float = 0.0
    """As many replicas as were up, or as there were turns, whichever was less."""
    up_s: float = 0.0
    history: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many replicas were up from then on."""
    _since_s: float = 0.0

    def pass_time(self) -> None:
        """Until now it was as it is."""
        now_s = asyncio.get_running_loop().time()
        passed_s, self._since_s = now_s - self._since_s, now_s
        if passed_s:
            self.feeding_s += passed_s * self.feeding
            self.possible_s += passed_s * max(self.feeding, min(self.up, self.unsent))
            self.up_s += passed_s * self.up

    def change_up(self, by: int) -> None:
        """A worker comes, or goes."""
        self.pass_time()
        self.up += by
        self.history.append((self._since_s, self.up))

    def change_feeding(self, by: int) -> None:
        """A replica has lines again, or none any more."""
        self.pass_time()
        self.feeding += by

    def change_unsent(self, by: int) -> None:
        """There are more turns with lines to be sent, or fewer."""
        self.pass_time()
        self.unsent += by
