"""What becomes of lines that came back from a replica without an answer. Times are those of the event loop."""

import math
import random
from typing import TYPE_CHECKING, Final

from backfill.batch import Outcome, Usage
from backfill.config import DispatchConfig
from backfill.dispatch.breaker import Breaker
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.hindrance import Hindrance
from backfill.dispatch.retry import choose_delay_s, render_loss
from backfill.dispatch.startup import Startup
from backfill.dispatch.suspects import Suspects
from backfill.dispatch.tally import Tally
from backfill.engines import Lost, LostReason
from backfill.status import WaitReason

if TYPE_CHECKING:
    from backfill.dispatch.lane import Lane
    from backfill.dispatch.lanes import Lanes
    from backfill.dispatch.open_turn import OpenTurn

__all__ = ["Losses"]

# So often a line may get a 429 although others were answered meanwhile: then it is the line that is too much.
_REJECTIONS_MAX: Final = 20
# A replica whose queue is full is offered no more than it holds for so long, and a line comes again so much later.
_TICK_S: Final = 0.25


class Losses:
    """Of one replica: a line is put back, tried again later or in other company, or given up."""

    def __init__(
        self,
        policy: DispatchConfig,
        dice: random.Random,
        breaker: Breaker,
        startup: Startup,
        hindrance: Hindrance,
        tally: Tally,
    ) -> None:
        self.suspects = Suspects()
        """Lines one of which may be why the engine ended."""
        self.replied_at_s = -math.inf
        """When the replica answered the last time."""
        self._policy = policy
        self._dice = dice
        self._breaker = breaker
        self._startup = startup
        self._hindrance = hindrance
        self._tally = tally
        self._crowd, self._crowded_until_s = 0, -math.inf

    def allow(self, limit: int, now_s: float) -> int:
        """How many requests may be in flight after what was lost, of as many as the replica takes."""
        if now_s < self._crowded_until_s:
            limit = min(limit, self._crowd)
        return self.suspects.allow(limit)

    def note(  # noqa: PLR0913 - the line, what was lost, and how the replica is
        self,
        lane: "Lane[OpenTurn]",
        line: int,
        lost: Lost,
        started_s: float,
        now_s: float,
        *,
        in_flight: int,
        lanes: "Lanes",
        controller: ConcurrencyController,
    ) -> None:
        """Have a line that got no answer tried again, or record that as its outcome."""
        turn, tally = lane.turn, self._tally
        if lost.never_sent:
            # The engine failed, not the line: it costs no try.
            lane.put_back(line)
            self._breaker.note_outage(now_s, started_s)
            self._startup.note_trouble(lost.message)
            self._hindrance.note_failed_request(WaitReason.ENGINE, lost.message)
            return
        if self._is_rejection(lost, started_s, now_s, in_flight, controller) and (
            turn.note_rejection(line, tally.answered) < _REJECTIONS_MAX
        ):
            # Nor does this: nothing was computed, and the same line is let in at another moment. Others go first
            # after the pause, or a line that is too much would be every probe.
            tally.lost += lost.reason is not LostReason.RATE_LIMITED
            asked_s = min(lost.retry_after_s or 0.0, self._policy.retry_after_max_s)
            pause_s = max(asked_s, self._breaker.pause_left_s(now_s))
            lane.put_back_later(line, pause_s + _TICK_S + self._dice.uniform(0.0, self._policy.backoff_s))
            return
        tally.lost += 1
        self._breaker.note_loss(now_s, started_s, has_alternative=lanes.has_others(lane))
        if lost.engine_ended and not self.suspects.note_end(in_flight):
            # Nor does this: it may have been any of those that were there.
            self.suspects.hold(lane, line)
            return
        tries = turn.tries.get(line, 0) + 1
        # Once may be chance; another start for it would cost all others as much again.
        is_guilty = lost.engine_ended and line in turn.ended_engine
        if tries >= self._policy.tries or is_guilty or lost.reason is LostReason.RATE_LIMITED:
            turn.tries[line] = tries - 1
            turn.record(line, Outcome.EXHAUSTED, lost.status or 0, Usage(), now_s - started_s, render_loss(lost, tries))
            turn.send_next_twin(lane, line)
            return
        turn.tries[line] = tries
        if lost.engine_ended:
            turn.ended_engine.add(line)
            self.suspects.hold(lane, line)
        else:
            lane.put_back_later(line, choose_delay_s(self._policy, lost, tries, self._dice))

    def _is_rejection(
        self, lost: Lost, started_s: float, now_s: float, in_flight: int, controller: ConcurrencyController
    ) -> bool:
        """Whether the replica is well and only has too much to do: it says 429, or 503 while it answers others."""
        tally = self._tally
        if lost.reason is LostReason.RATE_LIMITED:
            tally.rate_limited += 1
            controller.note_rejection(now_s)
            self._breaker.note_rate_limit(now_s, started_s, lost.retry_after_s)
            self._hindrance.note_failed_request(WaitReason.RATE_LIMIT, lost.message)
        elif lost.status == 503:
            controller.note_rejection(now_s)
            if now_s - self.replied_at_s > max(_TICK_S, tally.duration_s):
                return False
            # Its queue is full: until the next tick no more than it holds, or each worker would be turned away again.
            self._crowd, self._crowded_until_s = max(1, in_flight - 1), now_s + _TICK_S
        else:
            return False
        return True
