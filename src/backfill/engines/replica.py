"""The seam: all that the rest of Backfill knows of an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backfill.engines.forwarding import ForwardedAnswer
from backfill.engines.reply import Reply
from backfill.media_file import MediaFile

__all__ = ["CacheHabit", "Gauges", "OnFirstToken", "Replica", "ReplicaLimits"]

OnFirstToken = Callable[[], None]
"""Called at most once, when the engine has computed the prompt: its answer begins, whether or not it is whole."""


class CacheHabit(StrEnum):
    """How an engine's prefix cache wants to be fed."""

    PREFIX_LEADER = "prefix_leader"
    """Shared by all slots, but requests admitted together compute a prefix each: let one lead."""
    SLOT_AFFINITY = "slot_affinity"
    """One cache a slot: a prefix wants to stay on its slot."""
    NONE = "none"
    """The engine minds its cache itself, or nothing is known."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """What an engine says of itself. None: it does not say."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_use: float | None = None
    """From 0 to 1."""
    foreign: int | None = None
    """Of those that run or wait: how many are not ours."""


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What a replica can take."""

    concurrency: int
    """Requests in flight at most: a ceiling, the number that pays is found."""
    endpoints: frozenset[str]
    context_tokens: int | None = None
    first_concurrency: int = 16
    """Requests in flight before anything is known of the engine."""
    lines_per_prefix: int = 1
    """For a cache a slot: requests with one prefix in flight at most."""
    exclusive: str = ""
    """Of the replicas with the same word here one is up at a time, because there is memory for one; empty: no such."""
    puts_live_first: bool = False
    """Whether a live request waits for the step that is computed when it comes, and not for prompts or places that
    lines have."""
    gives_way: Callable[[str, bytes], bool] | None = None
    """Where a live request may find every place taken: whether a request of this endpoint and body frees its place as
    soon as its call is cancelled. None: none is cancelled for a live one."""
    pictures: frozenset[str] | None = frozenset()
    """Media types of the pictures that it takes; None: it judges itself."""
    clips: bool = False
    """Whether a chat may hold audio (`input_audio`)."""
    takes_links: bool = False
    """Whether a picture may be a link for it to follow, where the settings let links pass."""


class Replica(Protocol):
    """One engine at one address."""

    @property
    def name(self) -> str:
        """As in the configuration; no two replicas share one."""
        ...

    @property
    def limits(self) -> ReplicaLimits:
        """What it can take; does not change."""
        ...

    @property
    def cache_habit(self) -> CacheHabit:
        """How its prefix cache wants to be fed; does not change."""
        ...

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the engine is not up."""

    async def start(self) -> None:
        """Return once the engine answers; at once if it does. Safe to call from many tasks.

        Raises:
            EngineUnavailable: it cannot be started or reached now; the message says why.

        """

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Send one request and wait for its reply; never raises for what the network or the engine does.

        `attachment` is the clip that a request for an audio endpoint names: the engine gets both as a form.
        An engine that cannot tell when its first token came does not call `on_first_token`.
        """

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes, streamed or not.

        Raises:
            EngineUnavailable: there is no answer; with the code `NOT_SENT`, another replica may have the request.

        """

    async def read_gauges(self) -> Gauges:
        """What the engine says of itself now; all None if it says nothing or cannot be reached."""

    async def stop(self) -> None:
        """End what `start` began; safe to call twice."""
