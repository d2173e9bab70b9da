"""What a process has to do with the workers of its installation: what it knows of them, and what it tells them."""

from dataclasses import dataclass

from backfill.accounts import SharedUse
from backfill.catalogue import Catalogue
from backfill.config import Config
from backfill.dispatch import (
    Colleagues,
    Crew,
    CrewWork,
    Deadlines,
    Dispatcher,
    Forecaster,
    Heartbeat,
    OwnWork,
    Weighing,
)
from backfill.engines import Fleet
from backfill.live import LiveLimits
from backfill.store import Metadata, Workers
from backfill.turns import Company

__all__ = ["Workforce"]


@dataclass(frozen=True)
class Workforce:
    """Opens the rooms of one process that look beyond it."""

    config: Config
    catalogue: Catalogue
    metadata: Metadata
    company: Company

    async def open_crew(self) -> Crew:
        """For a process without engines: whoever asks first is to be told of the workers too."""
        crew = self._make_crew()
        await crew.look()
        return crew

    def make_forecaster(self, known: Crew | OwnWork) -> Forecaster:
        """By what workers tell, or by what is known here."""
        return Forecaster(self.metadata.database, self._make_work(known) if isinstance(known, Crew) else known)

    async def share_use(self, limits: LiveLimits) -> SharedUse:
        """From the first request on it is known how many others there are."""
        shared = SharedUse(self._workers, self.company.holder, limits, self.metadata.database.now_ms)
        await shared.exchange()
        return shared

    def make_colleagues(self) -> Colleagues | None:
        """None: there can be no others."""
        if self.company.neighbours is None:
            return None
        # What it is asked is read off the settings: it connects to nothing.
        engines = self.config.model_copy(update={"engines": self.config.engines_on_ray})
        placed = Fleet.from_config(engines, self.catalogue.resolve)
        return Colleagues(self._workers, self.metadata.database.now_ms, self.catalogue.resolve, placed)

    def make_deadlines(self, dispatcher: Dispatcher) -> Deadlines | None:
        """None: there can be no others, and all that is at work is seen by the dispatcher."""
        if self.company.neighbours is None:
            return None
        crew, database = self._make_crew(), self.metadata.database
        weighing = Weighing(database, self._make_work(crew), database.now_ms)
        duties, note = self.company.duties, dispatcher.note_urgency
        return Deadlines(weighing, crew, self._workers, duties, database.now_ms, note)

    def make_heartbeat(
        self, dispatcher: Dispatcher, fleet: Fleet, address: str, deadlines: Deadlines | None
    ) -> Heartbeat | None:
        """None: nobody listens."""
        if self.company.neighbours is None:
            return None
        clock_ms, lease_ms = self.metadata.database.now_ms, self.config.server.lease_ms
        heart = Heartbeat(self._workers, self.company.holder, dispatcher, fleet, clock_ms, lease_ms)
        heart.address = address
        if deadlines is not None:
            heart.find_urgency = lambda: deadlines.told
        return heart

    @property
    def _workers(self) -> Workers:
        return Workers(self.metadata.database)

    def _make_crew(self) -> Crew:
        return Crew(self._workers, self.metadata.database.now_ms, self.config.server.lease_ms, self.catalogue.resolve)

    def _make_work(self, crew: Crew) -> CrewWork:
        lines = self.config.dispatch.lines_per_turn
        return CrewWork(crew, self.metadata.database, lines, self.catalogue.resolve)
