"""A simulated engine as Backfill's dispatcher sees it."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import xxhash

from backfill.batch import Usage
from backfill.engines import Answered, CacheHabit, Gauges, Lost, LostReason, OnFirstToken, ReplicaLimits, Reply
from backfill.engines.forwarding import ForwardedAnswer, answer_reply
from backfill.engines.gauges import parse_gauges
from backfill.media_file import MediaFile
from bench.simulated.engine import SimulatedEngine, SimulatedReply, SimulatedRequest

__all__ = ["SimulatedReplica", "read_request"]

_BYTES_A_TOKEN = 4
_BLOCK_TOKENS = 16
_ENDPOINTS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})


class SimulatedReplica:
    """Implements `backfill.engines.Replica`; the engine's times are those of the running loop."""

    def __init__(  # noqa: PLR0913 - what an engine may be
        self,
        name: str,
        engine: SimulatedEngine,
        limits: ReplicaLimits | None = None,
        *,
        cache_habit: CacheHabit = CacheHabit.NONE,
        serves_gauges: bool = True,
        flavour: str = "vllm",
        priority: int = 0,
    ) -> None:
        """`priority` is given to each line."""
        self.name = name
        self.engine = engine
        self.limits = limits or ReplicaLimits(concurrency=1024, endpoints=_ENDPOINTS)
        self.cache_habit = cache_habit
        self.address: str | None = None
        self._serves_gauges = serves_gauges
        self._flavour = flavour
        self._priority = priority
        self._running = 0
        self.live = 0
        """Live requests of ours that whoever drives the engine has sent there."""

    async def start(self) -> None:
        """Be up."""
        self.address = f"http://{self.name}.simulated"

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,  # noqa: ARG002 - it has no endpoint that takes one
    ) -> Reply:
        """Let the engine serve what `body` asks for; a rejection is a loss, as of a real engine."""
        request = read_request(endpoint, body, self.engine)
        self._running += 1
        try:
            reply = await self.engine.serve(replace(request, priority=self._priority), on_first_token)
        finally:
            self._running -= 1
        if reply.status != 200:
            return _lose(reply)
        prompt_tokens = request.own_tokens + sum(size for _, size in request.prefix)
        usage = Usage(prompt_tokens, reply.completion_tokens, reply.cached_tokens)
        return Answered(200, _render_answer(endpoint, usage), usage)

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Answer as to a line of a batch."""
        return answer_reply(await self.send(endpoint, body))

    async def read_gauges(self) -> Gauges:
        """What the engine's `/metrics` says; nothing if it serves none."""
        if not self._serves_gauges:
            return Gauges()
        await asyncio.sleep(0)
        gauges = parse_gauges(self.engine.metrics_text(self._flavour))
        return replace(gauges, foreign=max(0, self.engine.running + self.engine.queued - self._running - self.live))

    async def stop(self) -> None:
        """Be down."""
        self.address = None


def read_request(endpoint: str, body: bytes, engine: SimulatedEngine) -> SimulatedRequest:
    """What a JSON body of OpenAI's shape costs.

    Four bytes of prompt are a token, and 16 tokens a block that others with the same beginning share. As many
    completion tokens as `max_tokens`, or drawn from the engine's dice where it is missing.
    """
    fields: dict[str, Any] = msgspec.json.decode(body)
    prompt = _join_prompt(fields)
    # Where nothing is kept of a prompt, it makes no difference what others share with it.
    blocks = _cut_blocks(prompt) if engine.settings.prefix_cache_tokens else ()
    own_tokens = max(1, len(prompt) // _BYTES_A_TOKEN - _BLOCK_TOKENS * len(blocks))
    if endpoint == "/v1/embeddings":
        return SimulatedRequest(own_tokens, 0, blocks, fields.get("priority", 0))
    asked = fields.get("max_completion_tokens") or fields.get("max_tokens")
    completion_tokens = asked or min(2_000, max(1, round(200 * engine.random.lognormvariate(0.0, 0.7))))
    return SimulatedRequest(own_tokens, completion_tokens, blocks, fields.get("priority", 0))


def _join_prompt(fields: dict[str, Any]) -> bytes:
    prompt = fields.get("messages") or fields.get("prompt") or fields.get("input") or ""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        return b"".join(f"<{one.get('role')}>{one.get('content')}".encode() for one in prompt)
    return prompt.encode() if isinstance(prompt, str) else msgspec.json.encode(prompt)


def _cut_blocks(prompt: bytes) -> tuple[tuple[str, int], ...]:
    """Whole blocks of the prompt, each keyed by all up to its end, as vLLM's automatic prefix caching does."""
    size = _BLOCK_TOKENS * _BYTES_A_TOKEN
    blocks, key = [], 0
    # The last token is always computed, so the last block is left out where nothing would follow it.
    for start in range(0, len(prompt) - size, size):
        key = xxhash.xxh3_64_intdigest(prompt[start : start + size], seed=key)
        blocks.append((str(key), _BLOCK_TOKENS))
    return tuple(blocks)


def _lose(reply: SimulatedReply) -> Lost:
    if reply.status == 429:
        return Lost(LostReason.RATE_LIMITED, "The simulated upstream takes no more.", 429, reply.retry_after_s)
    return Lost(LostReason.SERVER_ERROR, "The simulated engine's queue is full.", reply.status, reply.retry_after_s)


def _render_answer(endpoint: str, usage: Usage) -> bytes:
    told = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    answer: dict[str, Any] = {"id": "simulated", "model": "simulated", "usage": told}
    if endpoint == "/v1/embeddings":
        answer |= {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.0]}]}
    elif endpoint == "/v1/completions":
        answer |= {"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        answer |= {"object": "chat.completion", "choices": [choice]}
    return msgspec.json.encode(answer)
