"""OpenVINO's continuous batching, stepped by the event loop that also serves the clients.

A step holds the interpreter's lock from its begin to its end, so a thread of its own would gain nothing: between two
steps the loop turns a few times, and then requests are read, admitted and answered.
"""

import asyncio
import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import openvino_genai

from backfill.engines.host_refusal import Refusal

__all__ = ["Call", "Choice", "EngineFailed", "Prompt", "Scheduler", "shorten"]

# As many as it takes for a client's bytes on a new connection to become a request that waits for admission.
_TURNS_PER_STEP: Final = 6
# A live request that comes now has to wait for the step that is computed: a step with one prompt, not with four. Of
# prompts for batches so many tokens go into one, or one prompt, while live requests are about.
_TOKENS_BESIDE_LIVE: Final = 128
_LIVE_LINGER_S: Final = 10.0
# Prompts alike in this many tokens profit from waiting for each other.
_PREFIX_TOKENS: Final = 256
# The engine does not say what its cache still holds. Remembering a prefix too long only means computing it again.
_WARM_MAX: Final = 256
_SOURCE_PLACE: Final = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
_FINISH_REASONS: Final = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


class EngineFailed(Exception):
    """The engine broke down; the request may be right."""


class Prompt:
    """A prompt in tokens, as the engine takes them."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.tokens: int = tensor.shape[1]
        head = tensor.data[0, :_PREFIX_TOKENS]
        self.prefix: bytes | None = head.tobytes() if len(head) == _PREFIX_TOKENS else None
        """What it may share with others; None: too short to matter."""


class Choice:
    """One answer: what is to be computed, and what is known of it so far."""

    __slots__ = ("call", "config", "finish_reason", "handle", "log_probs", "prompt", "token_ids")

    def __init__(self, call: "Call", prompt: Prompt, config: Any) -> None:
        self.call = call
        self.prompt = prompt
        self.config = config
        # The engine drops a request whose handle nobody holds.
        self.handle: Any = None
        self.token_ids: list[int] = []
        self.log_probs: list[float] = []
        self.finish_reason: str | None = None


class Call:
    """All choices of one request; its handler waits here for what happens to them."""

    def __init__(self, *, is_live: bool = False) -> None:
        """`is_live`: somebody waits for the answer."""
        self.is_live = is_live
        self.choices: list[Choice] = []
        self.failure: Exception | None = None
        self._began = asyncio.Event()
        self._ended = asyncio.Event()
        self._progressed = asyncio.Event()
        self._open = 0

    def add(self, prompt: Prompt, config: Any) -> None:
        """Add a choice; only before the call is submitted."""
        self.choices.append(Choice(self, prompt, config))
        self._open += 1

    async def wait_begin(self) -> None:
        """Until the first token of any choice is there.

        Raises:
            Refusal: the engine cannot take the request.
            EngineFailed: it broke down.

        """
        await self._wait(self._began)

    async def wait_end(self) -> None:
        """Until all choices are complete. Raises what `wait_begin` does."""
        await self._wait(self._ended)

    async def wait_progress(self) -> None:
        """Until something is new since the last call of this. Raises what `wait_begin` does."""
        await self._wait(self._progressed)
        self._progressed.clear()

    @property
    def ended(self) -> bool:
        """Whether all choices are complete."""
        return self._ended.is_set()

    def note_tokens(self, *, finished: bool) -> None:
        """A choice has new tokens, the last ones if `finished`."""
        self._began.set()
        self._progressed.set()
        self._open -= finished
        if not self._open:
            self._ended.set()

    def fail(self, failure: Exception) -> None:
        """No more comes."""
        self.failure = failure
        self._open = 0
        for event in (self._began, self._ended, self._progressed):
            event.set()

    async def _wait(self, event: asyncio.Event) -> None:
        await event.wait()
        if self.failure is not None:
            raise self.failure


class Scheduler:
    """Admits choices in the order they came, steps the pipeline while there is work, hands out tokens.

    Live ones go before all others, whose prompts are not computed in the same step, and find a place as long as not
    all places are taken by live ones.

    Of choices whose prompts begin alike, the first goes ahead alone until its first token is there: the others then
    find the beginning in the engine's prefix cache, where side by side each would compute it again.
    """

    def __init__(self, pipeline: Any, concurrency: int) -> None:
        self._pipeline = pipeline
        self._concurrency = concurrency
        self._waiting: deque[Choice] = deque()
        self._waiting_live: deque[Choice] = deque()
        self._live_until_s = -math.inf
        self._running: list[Choice] = []
        self._leaders: dict[bytes, Choice] = {}
        self._warm: OrderedDict[bytes, None] = OrderedDict()
        """Prefixes computed before, the latest used last."""
        self._work = asyncio.Event()
        self._last_id = 0
        self.prompt_tokens = 0
        """Of all requests admitted so far."""
        self.completion_tokens = 0

    @property
    def running(self) -> int:
        """Choices being computed."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Choices that wait for admission."""
        return len(self._waiting) + len(self._waiting_live)

    @property
    def kv_cache_usage(self) -> float:
        """The share of the KV cache in use at the last step, 0 to 1."""
        return float(self._pipeline.get_metrics().cache_usage) / 100

    def submit(self, call: Call) -> None:
        """Have the call's choices computed."""
        (self._waiting_live if call.is_live else self._waiting).extend(call.choices)
        self._work.set()

    def cancel(self, call: Call) -> None:
        """Give up what is left of the call; nothing happens if that is nothing."""
        if any(choice.finish_reason is None for choice in call.choices):
            self._drop(call)

    async def run(self) -> None:
        """Work until the engine fails, which every call then knows.

        Raises:
            EngineFailed: the pipeline cannot be used again.

        """
        while True:
            await self._work.wait()
            self._admit()
            try:
                self._step()
            except Exception as error:
                failure = EngineFailed(f"The engine failed: {shorten(error)}")
                self._fail_all(failure)
                raise failure from error
            if not self.waiting and not self._pipeline.has_non_finished_requests():
                self._work.clear()
            for _ in range(_TURNS_PER_STEP):
                await asyncio.sleep(0)

    def _admit(self) -> None:
        if not self.waiting:
            return
        for choice in self._choose():
            if choice.call.failure is not None:
                continue
            self._last_id += 1
            try:
                choice.handle = self._pipeline.add_request(self._last_id, choice.prompt.tensor, choice.config)
            except RuntimeError as error:
                choice.call.fail(Refusal(f"The engine does not take the request: {shorten(error)}"))
                self._drop(choice.call)
                continue
            self._running.append(choice)
            self.prompt_tokens += choice.prompt.tokens

    def _choose(self) -> list[Choice]:
        """Take the next choices from those that wait."""
        now_s = time.monotonic()
        if self._waiting_live:
            self._live_until_s = now_s + _LIVE_LINGER_S
            running = sum(choice.call.is_live for choice in self._running)
            chosen = self._take(self._waiting_live, self._concurrency - running, math.inf)
            # One that waits for a leader has the next step; until then others may go.
            if chosen:
                return chosen
        tokens = _TOKENS_BESIDE_LIVE if now_s < self._live_until_s else math.inf
        return self._take(self._waiting, self._concurrency - len(self._running), tokens)

    def _take(self, waiting: deque[Choice], free: int, tokens: float) -> list[Choice]:
        """The first ones, up to so many and so many tokens; those held for a leader stay where they are."""
        chosen: list[Choice] = []
        held: list[Choice] = []
        while waiting and len(chosen) < free and (not chosen or waiting[0].prompt.tokens <= tokens):
            choice = waiting.popleft()
            if self._may_go(choice):
                chosen.append(choice)
                tokens -= choice.prompt.tokens
            else:
                held.append(choice)
        waiting.extendleft(reversed(held))
        return chosen

    def _may_go(self, choice: Choice) -> bool:
        prefix = choice.prompt.prefix
        if prefix is None:
            return True
        if prefix in self._warm:
            self._warm.move_to_end(prefix)
            return True
        return self._leaders.setdefault(prefix, choice) is choice

    def _step(self) -> None:
        if not self._pipeline.has_non_finished_requests():
            return
        self._pipeline.step()
        self._running = [choice for choice in self._running if not self._read(choice)]

    def _read(self, choice: Choice) -> bool:
        """Take the choice's new tokens; whether no more will come."""
        handle = choice.handle
        if not handle.can_read():
            if handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
                return False
            self._release(choice)
            choice.call.fail(Refusal("The request is longer than the engine's KV cache.", "max_tokens"))
            return True
        for output in handle.read().values():
            tokens = output.generated_ids
            if not choice.token_ids:
                self._warm_up(choice)
            choice.token_ids += tokens
            choice.log_probs += output.generated_log_probs
            choice.finish_reason = _FINISH_REASONS.get(output.finish_reason)
            self.completion_tokens += len(tokens)
        finished = choice.finish_reason is not None
        choice.call.note_tokens(finished=finished)
        return finished

    def _warm_up(self, choice: Choice) -> None:
        """The engine's cache now holds the beginning of this prompt."""
        prefix = choice.prompt.prefix
        if prefix is None:
            return
        self._release(choice)
        self._warm[prefix] = None
        if len(self._warm) > _WARM_MAX:
            self._warm.popitem(last=False)

    def _release(self, choice: Choice) -> None:
        """Let another go ahead with this beginning."""
        prefix = choice.prompt.prefix
        if prefix is not None and self._leaders.get(prefix) is choice:
            del self._leaders[prefix]

    def _drop(self, call: Call) -> None:
        for waiting in (self._waiting, self._waiting_live):
            if any(choice.call is call for choice in waiting):
                kept = [choice for choice in waiting if choice.call is not call]
                waiting.clear()
                waiting.extend(kept)
        for choice in call.choices:
            self._release(choice)
            if choice.handle is not None and choice.finish_reason is None:
                choice.handle.cancel()
        self._running = [choice for choice in self._running if choice.call is not call]

    def _fail_all(self, failure: EngineFailed) -> None:
        for call in set(_calls_of([*self._running, *self._waiting, *self._waiting_live])):
            call.fail(failure)


def _calls_of(choices: Sequence[Choice]) -> Iterator[Call]:
    return (choice.call for choice in choices)


def shorten(error: Exception) -> str:
    """The library's message for the client, without the places in its source that stand before it."""
    lines = str(error).strip().splitlines()
    return _SOURCE_PLACE.sub("", lines[-1]) if lines else type(error).__name__
