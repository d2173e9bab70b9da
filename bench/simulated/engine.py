"""A serving engine with continuous batching as a discrete model: no model, no network, only when what is ready.

What it keeps of vLLM's scheduler (and of SGLang's and llama.cpp's): sequences that run share each step, a step makes
one token for each; who waits is let in at a step's end, first come first served, while slots, key-value cache and the
step's prompt budget allow; a full cache sends the youngest back to the head of the queue, to be computed anew.
"""

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.simulated.gate import RateLimit
from bench.simulated.metrics import render_metrics
from bench.simulated.prefixes import PrefixCache

__all__ = ["EngineSettings", "SimulatedEngine", "SimulatedReply", "SimulatedRequest", "draw_request"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine can do. Times are seconds, sizes tokens."""

    slots: int = 256
    """Sequences that run at most."""
    prefill_tokens_per_s: float = 40_000.0
    step_prefill_tokens: int = 8_192
    """Prompt tokens that one step computes at most; a longer prompt has a step to itself."""
    step_base_s: float = 0.012
    step_per_sequence_s: float = 0.00005
    saturated_at: int | None = None
    """Running sequences from which each further one costs `step_per_sequence_saturated_s`; None: never."""
    step_per_sequence_saturated_s: float = 0.0
    kv_tokens: int = 1_000_000
    prefix_cache_tokens: int = 0
    """Room for prefixes beside that of the running sequences; 0: no cache."""
    latency_s: float | None = None
    """Every answer takes just this long once it has a slot; None: as long as the steps take."""
    queue_cap: int | None = None
    """Requests that wait at most; a further one is answered 503. None: any number."""
    requests_per_minute: int | None = None
    """Accepted in each minute, counted from the loop's time 0; a further one is answered 429. None: any number."""
    tells_retry_after: bool = True
    schedules_by_priority: bool = False
    """Who waits is let in by priority, and the last of them makes room in a full cache, as vLLM's `priority` policy."""
    rejection_s: float = 0.05
    """How long a 429 or 503 takes."""


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """What a request costs."""

    own_tokens: int
    """Of the prompt, behind the prefix."""
    completion_tokens: int
    """0: an embedding."""
    prefix: tuple[tuple[str, int], ...] = ()
    """Key and length of each block that other requests may share, in order."""
    priority: int = 0
    """Lower goes first, where the engine looks at it."""


@dataclass(frozen=True, slots=True)
class SimulatedReply:
    """What became of a request."""

    status: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    retry_after_s: float | None = None


@dataclass(eq=False, slots=True)
class _Sequence:
    request: SimulatedRequest
    reply: asyncio.Future[SimulatedReply]
    on_first_token: Callable[[], None] | None
    made: int = 0
    """Tokens made before it was sent back to the queue."""
    admission: int = 0
    """Which of the engine's admissions was its last."""
    started_step: int = 0
    computed_tokens: int = 0
    """Of the prompt and of what was made before."""
    cached_tokens: int = 0
    prefilled: bool = False


@dataclass(slots=True)
class _Segment:
    """Steps of equal length with nothing in between; the first takes `prefill_s` more."""

    start_s: float
    prefill_s: float
    step_s: float
    steps: int

    @property
    def end_s(self) -> float:
        return self.start_s + self.prefill_s + self.steps * self.step_s


@dataclass(slots=True)
class _Counters:
    answered: int = 0
    rejected: int = 0
    preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    busy_s: float = 0.0
    running_s: float = 0.0
    queued_s: float = 0.0
    since_s: float | None = None
    noted_s: float = 0.0


class SimulatedEngine:
    """Serves on the running loop's clock; with `run_virtual` hours pass at once, and the same each time."""

    def __init__(self, settings: EngineSettings, seed: int = 0) -> None:
        self.settings = settings
        self.random = random.Random(seed)
        """For whoever draws this engine's requests."""
        self.counters = _Counters()
        self._gate = RateLimit(settings.requests_per_minute)
        self._prefixes = PrefixCache(settings.prefix_cache_tokens)
        self._queue: deque[_Sequence] = deque()
        self._running: dict[_Sequence, None] = {}
        self._ends: list[tuple[int, int, _Sequence]] = []
        self._admissions = 0
        self._step = 0
        self._kv_used = 0
        self._segment: _Segment | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Sequences that have a slot."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait for one."""
        return len(self._queue)

    @property
    def kv_cache_use(self) -> float:
        """From 0 to 1."""
        return min(1.0, self._kv_used / self.settings.kv_tokens)

    @property
    def mean_queued(self) -> float:
        """Over the time since the first request."""
        return self.counters.queued_s / self._account()

    @property
    def busy_share(self) -> float:
        """Of the time since the first request: how much something ran."""
        return self.counters.busy_s / self._account()

    def metrics_text(self, flavour: str) -> str:
        """What `/metrics` of "vllm", "sglang" or "llamacpp" would say now."""
        counters = self.counters
        return render_metrics(
            flavour,
            running=self.running,
            waiting=self.queued,
            kv_cache_use=self.kv_cache_use,
            prompt_tokens=counters.prompt_tokens,
            completion_tokens=counters.completion_tokens,
        )

    def change(self, settings: EngineSettings) -> None:
        """Go on with other settings: what runs keeps its slot, what waits feels them from the next step on."""
        self._account()
        self.settings = settings
        self._gate.requests_per_minute = settings.requests_per_minute
        self._wake()

    async def serve(
        self, request: SimulatedRequest, on_first_token: Callable[[], None] | None = None
    ) -> SimulatedReply:
        """Answer, or reject with 429 or 503. A cancelled request leaves queue and slot at once."""
        loop = asyncio.get_running_loop()
        self._account()
        rejection = self._reject(loop.time())
        if rejection is not None:
            self.counters.rejected += 1
            await asyncio.sleep(self.settings.rejection_s)
            return rejection
        sequence = _Sequence(request, loop.create_future(), on_first_token)
        self._enqueue(sequence)
        self._wake()
        try:
            return await sequence.reply
        finally:
            if not sequence.reply.done() or sequence.reply.cancelled():
                self._abort(sequence)

    def _enqueue(self, sequence: _Sequence) -> None:
        position = len(self._queue)
        if self.settings.schedules_by_priority:
            while position and self._queue[position - 1].request.priority > sequence.request.priority:
                position -= 1
        self._queue.insert(position, sequence)

    def _reject(self, now_s: float) -> SimulatedReply | None:
        cap = self.settings.queue_cap
        if cap is not None and self.queued >= cap and self.running + self.queued >= self.settings.slots + cap:
            return SimulatedReply(503)
        wait_s = self._gate.admit(now_s)
        if wait_s is None:
            return None
        return SimulatedReply(429, retry_after_s=wait_s if self.settings.tells_retry_after else None)

    def _account(self) -> float:
        """Bring the sums over time up to now; returns the seconds that they cover."""
        counters, now_s = self.counters, asyncio.get_running_loop().time()
        if counters.since_s is None:
            counters.since_s = counters.noted_s = now_s
        passed_s = now_s - counters.noted_s
        counters.busy_s += passed_s if self._running else 0.0
        counters.running_s += passed_s * len(self._running)
        counters.queued_s += passed_s * len(self._queue)
        counters.noted_s = now_s
        return max(now_s - counters.since_s, 1e-9)

    def _wake(self) -> None:
        """Let somebody in now, or at the end of the step that is under way."""
        if self.settings.latency_s is not None:
            self._admit_for_latency(self.settings.latency_s)
        elif self._segment is None:
            # Requests of the same instant are let in together.
            self._segment = _Segment(asyncio.get_running_loop().time(), 0.0, 0.0, 0)
            self._set_timer(0.0)
        elif len(self._running) < self.settings.slots:
            self._cut_segment(self._segment)

    def _admit_for_latency(self, latency_s: float) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and len(self._running) < self.settings.slots:
            sequence = self._queue.popleft()
            self._running[sequence] = None
            loop.call_later(latency_s, self._end_latency, sequence)

    def _end_latency(self, sequence: _Sequence) -> None:
        if sequence in self._running:
            self._account()
            del self._running[sequence]
            self._answer(sequence)
            self._wake()

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._end_segment)

    def _cut_segment(self, segment: _Segment) -> None:
        now_s = asyncio.get_running_loop().time()
        begun_s = now_s - segment.start_s - segment.prefill_s
        steps = max(1, math.ceil(begun_s / segment.step_s - 1e-9)) if segment.step_s else 0
        if steps < segment.steps:
            segment.steps = steps
            self._set_timer(segment.end_s - now_s)

    def _end_segment(self) -> None:
        self._account()
        segment, self._timer = self._segment, None
        assert segment is not None
        self._step += segment.steps
        self._kv_used += segment.steps * len(self._running)
        if segment.prefill_s:
            self._note_prefilled()
        while self._ends and self._ends[0][0] <= self._step:
            _, admission, sequence = heapq.heappop(self._ends)
            if sequence in self._running and admission == sequence.admission:
                self._release(sequence)
                self._answer(sequence)
        self._make_room()
        self._begin_segment()

    def _begin_segment(self) -> None:
        prefill_tokens = self._admit()
        running = len(self._running)
        if not running:
            self._segment = None
            return
        settings = self.settings
        steps = 1
        if not prefill_tokens:
            room = max(1, (settings.kv_tokens - self._kv_used) // running)
            steps = max(1, min(self._ends[0][0] - self._step, room))
        now_s = asyncio.get_running_loop().time()
        prefill_s = prefill_tokens / settings.prefill_tokens_per_s
        self._segment = _Segment(now_s, prefill_s, self._step_s(running), steps)
        self._set_timer(self._segment.end_s - now_s)

    def _step_s(self, running: int) -> float:
        settings = self.settings
        beyond = 0 if settings.saturated_at is None else max(0, running - settings.saturated_at)
        return (
            settings.step_base_s
            + settings.step_per_sequence_s * (running - beyond)
            + settings.step_per_sequence_saturated_s * beyond
        )

    def _admit(self) -> int:
        """Give slots to those who wait; returns the prompt tokens that the next step computes."""
        settings, budget = self.settings, 0
        # vLLM keeps 1 % of the blocks free when it lets a new sequence in.
        room = settings.kv_tokens * 0.99
        while self._queue and len(self._running) < settings.slots:
            sequence = self._queue[0]
            cached = self._prefixes.match(sequence.request.prefix)
            prompt = sequence.request.own_tokens + sum(size for _, size in sequence.request.prefix)
            computed = max(1, prompt + sequence.made - cached)
            if self._running and (self._kv_used + computed > room or budget + computed > settings.step_prefill_tokens):
                break
            self._queue.popleft()
            self._start(sequence, computed, cached)
            budget += computed
        return budget

    def _start(self, sequence: _Sequence, computed: int, cached: int) -> None:
        self._admissions += 1
        sequence.admission, sequence.started_step, sequence.prefilled = self._admissions, self._step, False
        sequence.computed_tokens, sequence.cached_tokens = computed, max(sequence.cached_tokens, cached)
        left = max(1, sequence.request.completion_tokens - sequence.made)
        self._running[sequence] = None
        self._kv_used += computed
        self.counters.prompt_tokens += computed
        self.counters.cached_tokens += cached
        heapq.heappush(self._ends, (self._step + left, self._admissions, sequence))

    def _note_prefilled(self) -> None:
        """Prompts whose prefill has ended: what they share can be used from now on, not by those beside them."""
        for sequence in reversed(self._running):
            if sequence.prefilled:
                break
            sequence.prefilled = True
            self._prefixes.insert(sequence.request.prefix)
            if sequence.on_first_token is not None and not sequence.made:
                sequence.on_first_token()

    def _release(self, sequence: _Sequence) -> None:
        del self._running[sequence]
        self._kv_used -= sequence.computed_tokens + self._step - sequence.started_step

    def _make_room(self) -> None:
        """Send the youngest back while the cache cannot take another step of all."""
        while len(self._running) > 1 and self._kv_used + len(self._running) > self.settings.kv_tokens:
            sequence = next(reversed(self._running))
            if self.settings.schedules_by_priority:
                sequence = max(self._running, key=lambda one: (one.request.priority, one.admission))
            self._release(sequence)
            sequence.made += self._step - sequence.started_step
            self._queue.appendleft(sequence)
            self.counters.preempted += 1

    def _answer(self, sequence: _Sequence) -> None:
        if sequence.reply.done():
            return
        completion_tokens = sequence.request.completion_tokens
        self.counters.answered += 1
        self.counters.completion_tokens += completion_tokens
        sequence.reply.set_result(SimulatedReply(200, completion_tokens, sequence.cached_tokens))

    def _abort(self, sequence: _Sequence) -> None:
        self._account()
        if sequence in self._running:
            # Its slot is free from the next step on; what it did of the present one is not worth telling apart.
            self._release(sequence)
            self._wake()
        elif sequence in self._queue:
            self._queue.remove(sequence)


def draw_request(
    dice: random.Random,
    *,
    prompt_tokens: int = 300,
    completion_tokens: int = 200,
    spread: float = 0.7,
) -> SimulatedRequest:
    """A request with a lognormal number of completion tokens of that median, 2,000 at most; 0 is an embedding."""
    if not completion_tokens:
        return SimulatedRequest(max(1, round(prompt_tokens * dice.uniform(0.5, 1.5))), 0)
    drawn = round(completion_tokens * math.exp(dice.gauss(0.0, spread)))
    return SimulatedRequest(max(1, round(prompt_tokens * dice.uniform(0.5, 1.5))), min(2_000, max(1, drawn)))
