"""A simulated engine that lets live requests in as the built-in OpenVINO host does."""

import asyncio
import math

from bench.simulated.engine import EngineSettings, SimulatedEngine

__all__ = ["LiveFirstEngine"]

_LINGER_S = 10.0


class LiveFirstEngine(SimulatedEngine):
    """Requests of priority 0 go first, and have a step without prompts of others, of which it computes few afterwards.

    What the host does is in `engines.openvino.host.pipeline`; its numbers are given here.
    """

    def __init__(self, settings: EngineSettings, seed: int = 0, *, tokens_beside: int = 128) -> None:
        """`tokens_beside`: of prompts of others in a step while live requests are about, or one prompt."""
        super().__init__(settings, seed)
        self._tokens_beside = tokens_beside
        self._live_until_s = -math.inf

    def _admit(self) -> int:
        settings, budget = self.settings, 0
        now_s = asyncio.get_running_loop().time()
        live = [sequence for sequence in self._queue if not sequence.request.priority]
        if live:
            self._live_until_s = now_s + _LINGER_S
        few = self._tokens_beside if now_s < self._live_until_s else settings.step_prefill_tokens
        for sequence in live or list(self._queue):
            computed = sequence.request.own_tokens
            is_full = len(self._running) >= settings.slots or (budget and budget + computed > few)
            if not live and is_full:
                break
            self._queue.remove(sequence)
            self._start(sequence, computed, 0)
            budget += computed
        return budget
