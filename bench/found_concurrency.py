"""How near the found concurrency comes to the best configured one, on simulated engines in virtual time.

`python -m bench.found_concurrency` prints one JSON object. A ratio is the work done by the controller, which starts
with 16 in flight and knows nothing, over that of the best of some fixed numbers, over the whole run, finding included.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from backfill.dispatch.concurrency import ConcurrencyController
from backfill.engines import ReplicaLimits
from bench.simulated.clock import run_virtual
from bench.simulated.engine import EngineSettings, SimulatedEngine
from bench.simulated.feeding import FixedLimit, Run, feed
from bench.simulated.replica import SimulatedReplica
from bench.simulated.turn import Lines

__all__ = ["CASES", "FILLING", "Case", "Comparison", "compare", "run_case", "seconds_to_fill"]

_FIRST = 16


@dataclass(frozen=True, slots=True)
class Case:
    """An engine, what it is asked, and the fixed numbers that the found one is compared with."""

    settings: EngineSettings
    ceiling: int
    fixed: tuple[int, ...]
    prompt_tokens: int = 300
    completion_tokens: int = 200
    gauges: str | None = None
    """Flavour of `/metrics`; None: there is none."""
    duration_s: float = 300.0
    second_half: EngineSettings | None = None
    """What the engine becomes half-way."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one case gave with one seed. The means are over the second half."""

    ratio: float
    settled_ratio: float
    """Of the second half alone."""
    limit: float
    queued: float
    rejected: int


_LLAMACPP = Case(
    EngineSettings(
        slots=8,
        prefill_tokens_per_s=2_000.0,
        step_prefill_tokens=2_048,
        step_base_s=0.03,
        step_per_sequence_s=0.002,
        kv_tokens=32_768,
    ),
    ceiling=32,
    fixed=(4, 8, 12, 16, 32),
    prompt_tokens=200,
    completion_tokens=60,
)
_VLLM = Case(EngineSettings(slots=192, kv_tokens=240_000), ceiling=1_024, fixed=(128, 192, 256, 512, 1_024))
_RATE = Case(
    EngineSettings(slots=1_000, latency_s=2.0, requests_per_minute=100),
    ceiling=256,
    fixed=(1, 2, 4, 8, 16),
    duration_s=600.0,
)
_HALVED = replace(_VLLM.settings, slots=96, kv_tokens=120_000)

CASES = {
    "llamacpp": _LLAMACPP,
    "llamacpp_ceiling_8": replace(_LLAMACPP, ceiling=8, fixed=(2, 4, 6, 8)),
    "llamacpp_gauges": replace(_LLAMACPP, gauges="llamacpp"),
    "vllm": _VLLM,
    "vllm_gauges": replace(_VLLM, gauges="vllm"),
    "sglang_gauges_full_cache": replace(
        _VLLM, settings=EngineSettings(slots=256, kv_tokens=60_000), fixed=(64, 128, 192, 256), gauges="sglang"
    ),
    "embeddings": replace(
        _VLLM,
        settings=EngineSettings(slots=64, prefill_tokens_per_s=50_000.0),
        fixed=(16, 32, 64, 128),
        completion_tokens=0,
        duration_s=120.0,
    ),
    "queue_cap": replace(_VLLM, settings=replace(_VLLM.settings, queue_cap=64), fixed=(64, 128, 192, 256)),
    "rate_limit_retry_after": _RATE,
    # Without Retry-After each further worker is a request every 50 ms that is rejected.
    "rate_limit": replace(_RATE, settings=replace(_RATE.settings, tells_retry_after=False), fixed=(2, 3, 4, 5)),
    "halved": replace(_VLLM, second_half=_HALVED, duration_s=600.0, fixed=(128, 192, 256)),
    "halved_gauges": replace(_VLLM, second_half=_HALVED, duration_s=600.0, fixed=(128, 192, 256), gauges="vllm"),
}
FILLING = Case(EngineSettings(slots=2_000, latency_s=2.0), ceiling=2_000, fixed=(), duration_s=12.0)
"""2 s latency and room for 2,000."""


def run_case(case: Case, controller: ConcurrencyController, seed: int) -> Run:
    """One run in virtual time; equal arguments give equal runs."""

    async def drive() -> Run:
        engine = SimulatedEngine(case.settings, seed)
        lines = Lines(case.prompt_tokens, case.completion_tokens, seed=seed)
        replica = SimulatedReplica(
            "simulated",
            engine,
            ReplicaLimits(case.ceiling, frozenset({lines.endpoint}), first_concurrency=_FIRST),
            serves_gauges=case.gauges is not None,
            flavour=case.gauges or "vllm",
        )
        second_half = case.second_half
        half_way = None if second_half is None else partial(engine.change, second_half)
        return await feed(controller, replica, lines, case.duration_s, half_way)

    return run_virtual(drive())


def compare(case: Case, seed: int) -> Comparison:
    """The controller beside the best fixed number."""
    half_s, end_s = case.duration_s / 2, case.duration_s
    found = run_case(case, ConcurrencyController(case.ceiling, _FIRST), seed)
    # A fixed number does not look at gauges.
    best, best_settled = _do_best(replace(case, gauges=None), seed)
    return Comparison(
        ratio=found.work(0.0, end_s) / best,
        settled_ratio=found.work(half_s, end_s) / best_settled,
        limit=found.mean_limit(half_s, end_s),
        queued=found.mean_queued(half_s, end_s),
        rejected=found.rejected,
    )


@cache
def _do_best(case: Case, seed: int) -> tuple[float, float]:
    """The most work that one of the fixed numbers does, in the whole run and in its second half."""
    runs = [run_case(case, FixedLimit(number), seed) for number in case.fixed]
    half_s, end_s = case.duration_s / 2, case.duration_s
    return max(run.work(0.0, end_s) for run in runs), max(run.work(half_s, end_s) for run in runs)


def seconds_to_fill(case: Case, seed: int, share: float = 0.95) -> float | None:
    """When `share` of the engine's slots ran at first; None: not in the whole run."""
    run = run_case(case, ConcurrencyController(case.ceiling, _FIRST), seed)
    needed = share * case.settings.slots
    return next((moment.now_s for moment in run.history if moment.in_flight >= needed), None)


def _describe(case: Case, seeds: Sequence[int]) -> dict[str, Any]:
    runs = [compare(case, seed) for seed in seeds]
    return {
        "ratio": [round(run.ratio, 3) for run in runs],
        "settled_ratio": [round(run.settled_ratio, 3) for run in runs],
        "limit": [round(run.limit, 1) for run in runs],
        "queued_in_engine": [round(run.queued, 1) for run in runs],
        "rejected": [run.rejected for run in runs],
    }


def main() -> None:
    """Print all cases with one seed."""
    report: dict[str, Any] = {name: _describe(case, (1,)) for name, case in CASES.items()}
    report["seconds_to_1900_of_2000"] = {
        "without_gauges": seconds_to_fill(FILLING, 1),
        "gauges": seconds_to_fill(replace(FILLING, gauges="vllm"), 1),
    }
    report["least_ratio"] = min(min(report[name]["ratio"]) for name in CASES)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
