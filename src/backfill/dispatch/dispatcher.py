"""The loop: take turns, feed the replicas from them, wind them down, give them back."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from backfill.batch import Batch, BatchProblem, State
from backfill.config import DispatchConfig
from backfill.dispatch.colleagues import Colleagues
from backfill.dispatch.cut_inputs import CutInputs
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.left_turns import LeftTurns
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.pace import Pace
from backfill.dispatch.residency import Residency
from backfill.dispatch.waiting import explain_place, explain_turn
from backfill.dispatch.work_left import WorkLeft
from backfill.dispatch.works import Work, Works
from backfill.engines import Fleet
from backfill.errors import InputLost, StoreUnavailable, TurnLost
from backfill.journal import SyncGroup
from backfill.media import MediaLibrary
from backfill.status import ReplicaStatus, Urgency, Waiting
from backfill.store import Blobs, GroupedCalls
from backfill.turns import ALL_BATCHES, Turn, Turns, now_ms
from backfill.wire.waiting import explain_pause

__all__ = ["Dispatcher"]

_TICK_S = 1.0
# So often in the time that a lease holds.
_RENEWALS_A_LEASE = 3
# Each look may wait for a database that is locked, several times.
_SILENCE_MAX_S = 60.0
# An open turn holds an index and a segment; more than this many batches side by side would only share the replicas. A
# single owner gets two thirds of the places.
_OPEN_TURNS = 96
_OPENINGS_AT_ONCE = 16
_log = structlog.get_logger(__name__)


class Dispatcher:
    """Works on every batch that is due, until stopped. Whatever it has not finished, the next dispatcher will."""

    def __init__(  # noqa: PLR0913 - what is not said has a default
        self,
        turns: Turns,
        blobs: Blobs,
        fleet: Fleet,
        policy: DispatchConfig,
        check_input: Callable[[Batch], Awaitable[None]],
        media: MediaLibrary | None = None,
        *,
        colleagues: Colleagues | None = None,
    ) -> None:
        """`check_input` raises InputLost if what the batch reads is not what was uploaded, and cannot be had again.

        `media` has what lines name; without it they are sent as they are. `colleagues`: the workers of the
        installation; None: there is this process alone.
        """
        self._turns = turns
        self._blobs = blobs
        self._fleet = fleet
        self._policy = policy
        self._check_input = check_input
        self._media = media
        self.left = LeftTurns(colleagues)
        """What is none for this process, as other workers serve it."""
        self._bell = turns.subscribe()
        dice = random.Random()  # noqa: S311 - jitter, not a secret
        shared = {replica.limits.exclusive: Residency() for replica in fleet.replicas if replica.limits.exclusive}
        self._feeders = {
            replica.name: Feeder(replica, policy, dice, shared.get(replica.limits.exclusive))
            for replica in fleet.replicas
        }
        for name, feeder in self._feeders.items():
            feeder.make_room_for(fleet.presences[name])
        self._open = Works()
        self._cuts = CutInputs(blobs)
        self._none_free_until_s: dict[str, float] = {}
        """Batch that was cut -> when to ask again for slices, for those of which none was free."""
        self._paused_of_late: set[str] = set()
        turns.watch_pauses(self._note_pause)
        self._syncs = SyncGroup()
        self._openings = GroupedCalls(_OPENINGS_AT_ONCE)
        self._renewed_at_s = asyncio.get_running_loop().time()
        self._looked_at_s: float | None = None
        self._stopped = asyncio.Event()

    @property
    def troubles(self) -> dict[str, str]:
        """Replica name -> why nothing is sent to it now, for those of which that is so."""
        return {name: feeder.trouble for name, feeder in self._feeders.items() if feeder.trouble}

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """Every replica, in the order of the configuration."""
        return tuple(feeder.status for feeder in self._feeders.values())

    @property
    def open_batches(self) -> tuple[str, ...]:
        """The ids of the batches that are worked on."""
        return tuple(dict.fromkeys(work.turn.batch.id for work in self._open))

    @property
    def paces(self) -> dict[str, Pace]:
        """Replica -> how fast it is."""
        return {name: feeder.observer.pace for name, feeder in self._feeders.items()}

    @property
    def work_left(self) -> list[tuple[Turn, WorkLeft]]:
        """What is left of each turn that is worked on."""
        return [(work.turn, work.opened.work_left) for work in self._open if work.opened is not None]

    def find_wait(self, batch: Batch) -> Waiting | None:
        """What holds a batch up; None if nothing does, as far as is known, or if it has ended."""
        if batch.state.is_final:
            # What kept it from ending is forgotten a moment later.
            return None
        if batch.state is State.PAUSED:
            return explain_pause(batch)
        setbacks, works = self._turns.setbacks, self._open.find(batch.id)
        opened = [work.opened for work in works if work.opened is not None]
        if opened and not batch.state.is_closing:
            failed = None if any(one.has_moved for one in opened) else setbacks.find(batch.id)
            # It moves if one of its slices does.
            waits = [explain_turn(one, self._feeders, now_ms()) for one in opened]
            return failed or (min(filter(None, waits), key=_since_ms) if all(waits) else None)
        failed = setbacks.find(batch.id) or setbacks.find(ALL_BATCHES)
        if failed is None and not works and batch.state is State.IN_PROGRESS:
            return explain_place(batch, self._open.list_batches(), now_ms())
        return failed

    @property
    def in_flight(self) -> int:
        """Requests that are with the engines now."""
        return sum(feeder.in_flight for feeder in self._feeders.values())

    def note_urgency(self, urgency: Urgency) -> None:
        """Which deadlines are in danger, of all that waits."""
        self._open.urgency = urgency
        for feeder in self._feeders.values():
            feeder.lanes.urgency = urgency

    async def check(self) -> None:
        """Raises StoreUnavailable if nobody has looked for work for a long time, or not at all."""
        silent_s = asyncio.get_running_loop().time() - (self._looked_at_s or float("-inf"))
        if silent_s > _SILENCE_MAX_S:
            raise StoreUnavailable(f"The dispatcher has not looked for work for {silent_s:.0f} s.")

    async def run(self) -> None:
        """Work until `stop` is called, then give all turns back and return."""
        feeding = [asyncio.create_task(feeder.run(), name=f"feed {name}") for name, feeder in self._feeders.items()]
        try:
            await self._run_turns(feeding)
            await self._give_all_back()
        finally:
            for task in feeding:
                task.cancel()
            await asyncio.gather(*feeding, return_exceptions=True)

    def stop(self) -> None:
        """Take no more turns and send no more lines; what is in flight may come back."""
        self._stopped.set()
        for work in self._open:
            work.wind_down(self._policy.cancel_grace_s)
        self._bell.ring()

    async def _run_turns(self, feeding: "list[asyncio.Task[None]]") -> None:
        steps = (
            # First, since this process may have stood still while its turns were lost.
            self._stop_ended,
            self._turns.admit_waiting,
            self._turns.expire_due,
            self._open_new,
            self._open_further,
            self._open_left,
            self._renew,
        )
        while not self._stopped.is_set():
            self._looked_at_s = asyncio.get_running_loop().time()
            for task in feeding:
                if task.done():
                    task.result()
            # Each by itself: what cannot be judged now must not keep others from being taken or renewed.
            if all([await self._try(step) for step in steps]):
                self._turns.setbacks.forget(ALL_BATCHES)
            await self._bell.wait(_TICK_S)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on, for the other batches
            self._turns.setbacks.note(ALL_BATCHES, error, "metadata unavailable, trying again")
            return False
        return True

    async def _renew(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._renewed_at_s >= self._turns.lease_s / _RENEWALS_A_LEASE:
            await self._turns.renew([work.turn for work in self._open if not work.is_done])
            self._renewed_at_s = now_s

    async def _open_new(self) -> None:
        open_turns, landing = self._open.list_turns(landing=False), self._open.list_turns(landing=True)
        self._paused_of_late.clear()
        lines_per_s = sum(feeder.tally.requests_per_s for feeder in self._feeders.values())
        room = _OPEN_TURNS - len(self._open.list_batches())
        stock = None if self._turns.duties.is_alone else self._open.take_stock(self._feeders.values())
        passed_over = self.left.batches
        take = self._turns.take(
            room, open_turns, landing, lines_per_s=lines_per_s, stock=stock, passed_over=passed_over
        )
        for turn in await take:
            self._begin(turn)

    async def _open_further(self) -> None:
        """Take further slices of batches of which some are open, before these have no lines left to be sent."""
        now_s = asyncio.get_running_loop().time()
        self._paused_of_late.clear()
        for batch in [batch for batch in self._open.list_batches() if batch.slices]:
            failed = self._turns.setbacks.find(batch.id)
            if failed is not None or now_s < self._none_free_until_s.get(batch.id, now_s):
                continue
            most = self._open.count_lacking(batch, self._feeders.values())
            if not most:
                continue
            own = [work.turn.slice_number for work in self._open.find(batch.id)]
            turns = await self._turns.take_slices(batch, most, own + self.left.list_slices(batch.id))
            if not turns:
                self._none_free_until_s[batch.id] = now_s + _TICK_S
            for turn in turns:
                self._begin(turn)

    async def _open_left(self) -> None:
        """Take slices that became free of batches of which others are left to other workers."""
        batches = await self.left.revise()
        opened = {batch.id for batch in self._open.list_batches()}
        for batch in [batch for batch in batches if batch.id not in opened][: max(0, _OPEN_TURNS - len(opened))]:
            for turn in await self._turns.take_slices(batch, 1, self.left.list_slices(batch.id)):
                self._begin(turn)

    def _begin(self, turn: Turn) -> None:
        work = Work(turn, asyncio.Event(), is_fenced=not turn.is_takeover)
        if turn.batch.id in self._paused_of_late:
            work.let_land()
        self._open.add(work)
        work.task = asyncio.create_task(self._carry_out(work), name=f"turn {turn.name}")
        work.task.add_done_callback(functools.partial(self._forget, turn))

    def _forget(self, turn: Turn, _task: "asyncio.Task[None]") -> None:
        self._open.remove(turn)
        if not self._open.find(turn.batch.id):
            self._none_free_until_s.pop(turn.batch.id, None)
        self._bell.ring()

    async def _stop_ended(self) -> None:
        """Wind down turns whose batch was paused, cancelled, has expired, or was taken over."""
        works = list(self._open)
        running = await self._turns.still_running([work.turn for work in works])
        stopped = [work.turn for work in works if work.turn.name not in running]
        paused = await self._turns.still_paused(stopped)
        for work in works:
            if work.turn.name in paused:
                work.let_land()
            elif work.is_landing or work.turn.name not in running:
                # One that was resumed waits for no long answer before it goes on.
                work.wind_down(self._policy.cancel_grace_s)

    def _note_pause(self, batch_id: str) -> None:
        """At once: when whoever paused it hears of that, nothing more of it is sent."""
        self._paused_of_late.add(batch_id)
        for work in self._open.find(batch_id):
            work.let_land()

    async def _give_all_back(self) -> None:
        for work in self._open:
            work.wind_down(self._policy.cancel_grace_s)
        await asyncio.gather(*(work.task for work in self._open if work.task is not None))

    async def _carry_out(self, work: Work) -> None:
        """One turn from its lease to its return. A failure is reported, and the batch tried again."""
        turn, drained = work.turn, False
        opened: OpenTurn | None = None
        try:
            await self._check_input(turn.batch)
            reuse = self._policy.reuse_answers
            opened = work.opened = await OpenTurn.open(
                turn,
                work.over,
                self._blobs,
                self._fleet,
                reuse=reuse,
                syncs=self._syncs,
                openings=self._openings,
                library=self._media,
                cuts=self._cuts,
                colleagues=self.left.colleagues,
            )
            work.is_fenced = True
            is_through = await self._feed_from(work, opened)
            drained = is_through and not opened.left_models
            failure = opened.failure
            if opened.has_moved:
                self._turns.setbacks.forget(turn.batch.id)
            if is_through and opened.left_models:
                self.left.note(turn, opened.left_models, opened.left_version)
            if drained:
                # What was overwritten while it was read must not end as if nothing had been.
                await self._check_input(turn.batch)
                if not turn.slice_number:
                    await self._remove_fetched(opened)
        except InputLost as error:
            work.opened, work.is_done = None, True
            await self._end(work, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's alone
            drained = False
            failure = error
        work.opened = None
        if failure is not None:
            # Our keeping the turn keeps the batch from being taken at once: a full disk does not empty in a second.
            await self._pause(self._note_failure(turn, failure, "batch stopped for now"))
        work.is_done = True
        if await self._give_back(work, drained=drained) and turn.slice_number and opened is not None:
            await self._remove_fetched(opened)

    async def _remove_fetched(self, opened: OpenTurn) -> None:
        """Nothing is sent of it any more; what cannot go now goes later (`intake.Retention`)."""
        if self._media is not None and opened.media is not None:
            with suppress(StoreUnavailable):
                await self._media.remove(opened.turn.batch.id)

    async def _end(self, work: Work, error: InputLost) -> None:
        """The batch can never be completed: end it, with what it has and the reason."""
        turn = work.turn
        problem = BatchProblem(error.code, error.message, param=error.param)
        try:
            if await self._turns.fail_turn(turn, problem, is_fenced=work.is_fenced):
                _log.error("batch failed", batch=turn.batch.id, reason=error.message)
                return
        except Exception as unavailable:  # noqa: BLE001 - whatever it is, the next turn finds the same
            await self._pause(self._note_failure(turn, unavailable, "batch cannot be failed yet"))
        await self._give_back(work, drained=False)

    def _note_failure(self, turn: Turn, error: Exception, event: str) -> float:
        return self._turns.setbacks.note(turn.batch.id, error, event, batch=turn.batch.id)

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopped.wait()

    async def _feed_from(self, work: Work, opened: OpenTurn) -> bool:
        feeders = {lane: [self._feeders[replica.name] for replica in lane.route.replicas] for lane in opened.lanes}
        for lane, serving in feeders.items():
            for feeder in serving:
                feeder.offer(lane, [other for other in serving if other is not feeder])
        try:
            await opened.over.wait()
            await opened.wind_down(None if work.is_landing else self._policy.cancel_grace_s)
        finally:
            for lane, serving in feeders.items():
                for feeder in serving:
                    feeder.withdraw(lane)
            drained = await opened.close()
        return drained

    async def _give_back(self, work: Work, *, drained: bool) -> bool:
        """Until it is written; at a stop one try must do, since the next start frees all turns.

        Gives whether nothing is left of the batch.
        """
        turn = work.turn
        while True:
            is_last_try = self._stopped.is_set()
            try:
                is_last = await self._turns.give_back(turn, drained=drained, is_fenced=work.is_fenced)
            except TurnLost as error:
                _log.warning("turn lost", batch=turn.batch.id, reason=error.message)
                self._turns.setbacks.forget(turn.batch.id)
                return False
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch would wait for ever
                pause_s = self._note_failure(turn, error, "turn not given back, trying again")
            else:
                if drained:
                    self._turns.setbacks.forget(turn.batch.id)
                return is_last
            if is_last_try:
                return False
            await self._pause(pause_s)


def _since_ms(waiting: Waiting) -> int:
    return waiting.since_ms
