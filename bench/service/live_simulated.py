"""Live requests beside a batch on simulated engines, on a clock that jumps: the dispatcher's own feeder makes room."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from backfill.engines import Presence, ReplicaLimits
from bench.service.arrivals import draw_arrivals
from bench.simulated.clock import run_virtual
from bench.simulated.engine import EngineSettings, SimulatedEngine, SimulatedRequest, draw_request
from bench.simulated.feeding import SimulatedFeeder, feeding
from bench.simulated.live_first import LiveFirstEngine
from bench.simulated.replica import SimulatedReplica
from bench.simulated.turn import Lines, SimulatedTurn

__all__ = ["LLAMACPP", "OPENVINO", "VLLM", "Modelled", "Side", "Traffic", "run_simulated"]

_ENDPOINTS = frozenset({"/v1/completions"})
_BATCH_PRIORITY = 100
_WARM_UP_S = 60.0
_BYTES_A_TOKEN = 4
_ENDLESS = 1_000_000


@dataclass(frozen=True)
class Modelled:
    """An engine, and what is asked of it."""

    settings: EngineSettings
    limits: ReplicaLimits
    lines: Lines = field(default_factory=Lines)
    """Of the batch; each run has a seed of its own."""
    live_prompt_tokens: int = 300
    live_completion_tokens: int = 100
    make: Callable[[EngineSettings, int], SimulatedEngine] = SimulatedEngine


VLLM = Modelled(
    EngineSettings(slots=256, schedules_by_priority=True), ReplicaLimits(concurrency=1024, endpoints=_ENDPOINTS)
)
_CHATS = Lines(prompt_tokens=80, completion_tokens=48, spread=0.05)
OPENVINO = Modelled(
    # As measured on two cores (docs/performance.md).
    EngineSettings(
        slots=64,
        prefill_tokens_per_s=1_430,
        step_prefill_tokens=2_048,
        step_base_s=0.00712,
        step_per_sequence_s=0.000228,
        schedules_by_priority=True,
    ),
    ReplicaLimits(concurrency=64, first_concurrency=64, endpoints=_ENDPOINTS, puts_live_first=True),
    lines=_CHATS,
    live_prompt_tokens=80,
    live_completion_tokens=32,
    make=LiveFirstEngine,
)
LLAMACPP = Modelled(
    EngineSettings(
        slots=8, prefill_tokens_per_s=360, step_prefill_tokens=2_048, step_base_s=0.008, step_per_sequence_s=0.004
    ),
    ReplicaLimits(
        concurrency=8,
        first_concurrency=8,
        endpoints=_ENDPOINTS,
        puts_live_first=True,
        gives_way=lambda _endpoint, _body: True,
    ),
    lines=_CHATS,
    live_prompt_tokens=80,
    live_completion_tokens=24,
)


@dataclass(frozen=True)
class Side:
    """What one run came to."""

    first_token_s: list[float]
    """Of each live request."""
    live_tokens_per_s: float
    batch_tokens_per_s: float


@dataclass(frozen=True)
class Traffic:
    """The live requests of a run; equal ones are the same requests at the same times."""

    rate_per_s: float
    """0: none."""
    duration_s: float
    seed: int = 1
    is_foreign: bool = False
    """They come past Backfill, which sees them in the engine's gauges only."""


def run_simulated(traffic: Traffic, modelled: Modelled = VLLM, *, with_batch: bool) -> Side:
    """One run, at once."""
    return run_virtual(_run(traffic, modelled, with_batch=with_batch))


async def _run(traffic: Traffic, modelled: Modelled, *, with_batch: bool) -> Side:
    seed = traffic.seed
    engine = modelled.make(modelled.settings, seed)
    replica = SimulatedReplica("simulated", engine, modelled.limits, priority=_BATCH_PRIORITY)
    feeder = SimulatedFeeder(replica, seed)
    presence = Presence()
    feeder.make_room_for(presence)
    lines = replace(modelled.lines, seed=seed)
    turn = SimulatedTurn(lines, lines.plan(_ENDLESS))
    loop = asyncio.get_running_loop()
    async with feeding(feeder):
        if with_batch:
            turn.offer_to([feeder])
            await asyncio.sleep(_WARM_UP_S)
        live = _Live(modelled, replica, presence, random.Random(seed), is_foreign=traffic.is_foreign)
        began_s, batch_before = loop.time(), _tokens(turn)
        await live.run(draw_arrivals(random.Random(seed + 1), traffic.rate_per_s, traffic.duration_s))
        await asyncio.sleep(max(0.0, began_s + traffic.duration_s - loop.time()))
        took_s = loop.time() - began_s
        return Side(live.first_token_s, live.tokens / took_s, (_tokens(turn) - batch_before) / took_s)


class _Live:
    """Sends live requests to the engine, as the live room would."""

    def __init__(
        self,
        modelled: Modelled,
        replica: SimulatedReplica,
        presence: Presence,
        dice: random.Random,
        *,
        is_foreign: bool,
    ) -> None:
        self.first_token_s: list[float] = []
        self.tokens = 0
        self._modelled = modelled
        self._replica = replica
        self._presence = presence
        self._dice = dice
        self._is_foreign = is_foreign

    async def run(self, arrivals: list[float]) -> None:
        """Send one at each of these times; return when all are answered."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for at_s in arrivals:
                await asyncio.sleep(max(0.0, began_s + at_s - loop.time()))
                request = draw_request(
                    self._dice,
                    prompt_tokens=self._modelled.live_prompt_tokens,
                    completion_tokens=self._modelled.live_completion_tokens,
                )
                group.create_task(self._send(request))

    async def _send(self, request: SimulatedRequest) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        size_bytes = request.own_tokens * _BYTES_A_TOKEN
        visit = None if self._is_foreign else self._presence.enter(size_bytes, is_stream=True)

        def note_first_token() -> None:
            self.first_token_s.append(loop.time() - began_s)
            if visit is not None:
                visit.note_first_token()

        self._replica.live += not self._is_foreign
        try:
            reply = await self._replica.engine.serve(replace(request, priority=0), note_first_token)
        finally:
            self._replica.live -= not self._is_foreign
            if visit is not None:
                visit.leave()
        self.tokens += reply.completion_tokens


def _tokens(turn: SimulatedTurn) -> int:
    return sum(one.tokens for one in turn.ended)
