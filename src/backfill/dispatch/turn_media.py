"""What the lines of one turn name: which of them may name something, and where it is kept."""

from collections.abc import Sequence
from typing import Any, Protocol

from backfill.batch import Outcome, Usage
from backfill.config import MediaConfig
from backfill.engines import Refused
from backfill.media import BatchMedia, MediaLibrary
from backfill.wire import HAS_FILE, HAS_MEDIA, read_fault

__all__ = ["MediaTurn", "TurnMedia", "may_name_media"]

_NAMING = HAS_FILE | HAS_MEDIA


class MediaTurn(Protocol):
    """What has to be known of an open turn to bring what its lines name."""

    endpoint: str
    twins: dict[int, list[int]]

    def measure_body(self, line: int) -> int:
        """How many bytes the request has."""

    def read_body(self, line: int) -> bytes:
        """The request's bytes; raises StoreUnavailable. For a worker thread."""

    async def fetch_body(self, line: int) -> bytes:
        """The same for the event loop."""

    def record(self, line: int, outcome: Outcome, status: int, usage: Usage, duration_s: float, body: bytes) -> None:
        """Write down what became of a line."""

    async def answer_twins(self, lane: Any, line: int, reply: Refused) -> int:
        """Give a line's outcome to all that ask for the same."""

    def send_next_twin(self, lane: Any, line: int) -> None:
        """Have another line asked for what this one got no answer to."""

    def fail(self, error: Exception) -> None:
        """End the turn."""

    async def wait_for_disk(self) -> None:
        """Wait while the journal's disk lags behind."""


class TurnMedia:
    """A turn's hold of what its batch names."""

    def __init__(self, shapes: Sequence[int], hold: BatchMedia, config: MediaConfig) -> None:
        self.hold = hold
        self.config = config
        self._shapes = shapes

    @classmethod
    def open(cls, shapes: Sequence[int], library: MediaLibrary, batch_id: str, owner: str) -> "TurnMedia | None":
        """None if no line of these shapes names anything."""
        if not any(map(may_name_media, set(shapes))):
            return None
        return cls(shapes, library.open(batch_id, owner), library.config)

    def may_name(self, line: int) -> bool:
        """Whether the line may name something; its body says whether it does."""
        return may_name_media(self._shapes[line])


def may_name_media(shape: int) -> bool:
    """Whether a request of this shape may name a picture or a clip."""
    return bool(shape & _NAMING) and read_fault(shape) is None
