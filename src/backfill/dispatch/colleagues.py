"""What the workers of an installation serve, as one of them needs to know it: whose lines it must not refuse."""

from collections.abc import Callable, Sequence

from backfill.engines import Fleet
from backfill.status import WORKER_MEMORY_MS, WorkerReport
from backfill.store import Workers

__all__ = ["Colleagues"]


class Colleagues:
    """Those who told of themselves within the last hour. One that is silent just now may be starting again.

    And those that may be started at any time: replicas on Ray, of which there are none while nothing waits for them.
    """

    def __init__(
        self,
        workers: Workers,
        clock_ms: Callable[[], int],
        resolve_alias: Callable[[str], str] = str,
        placed: Fleet | None = None,
    ) -> None:
        """`clock_ms`: the clock that all processes share. `resolve_alias` gives the id that a name stands for.

        `placed`: the engines of the settings that the scaler starts; none of them is started here.
        """
        self._workers = workers
        self._clock_ms = clock_ms
        self._resolve_alias = resolve_alias
        self._placed = placed
        self._reports: Sequence[WorkerReport] = ()
        self.version = 0
        """Grows whenever they are found to serve something else than before."""

    @property
    def _offer(self) -> frozenset[tuple[str, str]]:
        """Model and endpoint, "*" for any model."""
        listed = {(model.id, endpoint) for one in self._reports for model in one.models for endpoint in model.endpoints}
        return frozenset(listed | {("*", endpoint) for one in self._reports for endpoint in one.any_model_at})

    async def look(self) -> None:
        """Read what they told; raises StoreUnavailable."""
        before = self._offer
        oldest_ms = self._clock_ms() - WORKER_MEMORY_MS
        workers = await self._workers.list()
        self._reports = [worker.report for worker in workers if worker.seen_at_ms >= oldest_ms]
        self.version += self._offer != before

    def find_name(self, model: str, endpoint: str) -> str | None:
        """Under what name one of them serves the model: this one, or the id that it stands for. None: nobody does."""
        names = (model, self._resolve_alias(model))
        told = next((name for name in names if any(one.serves(name, endpoint) for one in self._reports)), None)
        if told is None and self._placed is not None and self._placed.resolve(model, endpoint) is not None:
            return model
        return told

    def list_models(self, endpoint: str) -> set[str]:
        """The ids that they serve there."""
        told = {model for model, served_at in self._offer if served_at == endpoint and model != "*"}
        return told.union(self._placed.served_models(endpoint) if self._placed is not None else ())
