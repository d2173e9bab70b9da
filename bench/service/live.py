"""Live requests beside a batch: what they feel of it, what it gets done meanwhile, and what the way through costs."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.embedded_engines import SLOTS, configure_engines, warm_up, write_workload
from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.server_process import BackfillServer
from bench.service.arrivals import percentile
from bench.service.live_load import LiveLoad, Served
from bench.service.live_simulated import LLAMACPP, OPENVINO, VLLM, Modelled, Side, Traffic, run_simulated
from bench.service.live_way import measure_way
from bench.whole_path import upload
from bench.workloads import make_chats

__all__ = ["measure_live"]

_LATE = 0.99
_BATCH_TOKENS = (48,)
_SIMULATED_S = 200.0
_SIMULATED_SEEDS = (1, 2, 3)
_SIMULATED = {
    "vllm": (VLLM, 2.0),
    "openvino_simulated": (OPENVINO, 1.5),
    "llamacpp_simulated": (LLAMACPP, 0.7),
}
"""Engine, and live requests a second."""


@dataclass(frozen=True)
class _Case:
    """How much live traffic an engine gets: about a quarter of what it can do on two cores."""

    rate_per_s: float
    tokens: int
    duration_s: float
    lines: int
    """Of the batch: more than it gets done."""


_CASES = {
    "openvino": _Case(rate_per_s=1.5, tokens=32, duration_s=15.0, lines=1_500),
    "llamacpp": _Case(rate_per_s=0.7, tokens=24, duration_s=20.0, lines=500),
}
_ROUNDS = 3


class _Round(NamedTuple):
    """One turn of each side."""

    both: Served
    alone: Served
    batch_per_s: tuple[float, float]
    """Tokens of the batch a second, beside live requests and without any."""


def measure_live(setting: Setting, findings: Findings) -> None:
    """Both embedded engines, their models in virtual time, which no other work disturbs, and one of many slots."""
    for name, case in _CASES.items():
        _measure_engine(setting, findings, name, case)
    for name, (modelled, rate_per_s) in _SIMULATED.items():
        _measure_simulated(findings, name, modelled, rate_per_s)
    measure_way(setting, findings)


def _measure_engine(setting: Setting, findings: Findings, engine: str, case: _Case) -> None:
    """The batch alone, live requests beside it, and then these alone; in turns, because machines drift."""
    with BackfillServer(setting.make_folder() / "data", configure_engines(engine)) as server:
        warm_up(server, setting, engine)
        rounds = [_measure_round(setting, server, engine, case, seed) for seed in range(1, _ROUNDS + 1)]
    both, alone = Served(), Served()
    for each in rounds:
        both.add(each.both)
        alone.add(each.alone)
    findings.violations += [f"live, {engine}: {failure}" for failure in (*both.failures, *alone.failures)]
    if both.first_token_s and alone.first_token_s:
        beside_per_s, alone_per_s = (
            statistics.fmean(speeds) for speeds in zip(*(each.batch_per_s for each in rounds), strict=True)
        )
        beside = Side(both.first_token_s, both.tokens / (_ROUNDS * case.duration_s), beside_per_s)
        _note(findings, engine, Side(alone.first_token_s, 0.0, 0.0), beside, alone_per_s)


def _measure_round(setting: Setting, server: BackfillServer, engine: str, case: _Case, seed: int) -> _Round:
    load = LiveLoad(server.url, case.rate_per_s, case.duration_s, seed)
    bodies = make_chats(engine, 2 * len(load), (case.tokens,), f"live {seed}")
    path = write_workload(setting, make_chats(engine, case.lines, _BATCH_TOKENS, f"beside {seed}"))
    file_id, _ = upload(server, "multipart", path)
    batch_id = server.create_batch(file_id)
    _wait_until_at_work(server, engine)
    alone_per_s = _measure_batch(server, engine, lambda: time.sleep(case.duration_s))
    both = Served()
    beside_per_s = _measure_batch(server, engine, lambda: both.add(load.run(bodies[: len(load)])))
    server.cancel_batch(batch_id)
    _wait_until_idle(server, engine)
    return _Round(both, load.run(bodies[len(load) :]), (beside_per_s, alone_per_s))


def _measure_batch(server: BackfillServer, engine: str, work: Callable[[], object]) -> float:
    """Tokens of answers a second of the batch while `work` goes on."""
    began_s, before = time.monotonic(), server.read_engine(engine)["completion_tokens"]
    work()
    after = server.read_engine(engine)["completion_tokens"]
    return float(after - before) / (time.monotonic() - began_s)


def _wait_until_at_work(server: BackfillServer, engine: str) -> None:
    """Until it has answered as many lines as it takes at once: from then on they end one by one."""
    before = server.read_engine(engine)["answered"]
    deadline_s = time.monotonic() + BATCH_TIMEOUT_S
    while server.read_engine(engine)["answered"] < before + SLOTS[engine] and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _wait_until_idle(server: BackfillServer, engine: str) -> None:
    deadline_s = time.monotonic() + BATCH_TIMEOUT_S
    while server.read_engine(engine)["in_flight"] and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _measure_simulated(findings: Findings, name: str, modelled: Modelled, rate_per_s: float) -> None:
    for seed in _SIMULATED_SEEDS:
        rest, live = (Traffic(rate_per_s=rate, duration_s=_SIMULATED_S, seed=seed) for rate in (0.0, rate_per_s))
        batch = run_simulated(rest, modelled, with_batch=True)
        alone, both = (run_simulated(live, modelled, with_batch=with_batch) for with_batch in (False, True))
        _note(findings, name, alone, both, batch.batch_tokens_per_s)


def _note(findings: Findings, engine: str, alone: Side, both: Side, capacity_per_s: float) -> None:
    late = {name: percentile(side.first_token_s, _LATE) for name, side in (("alone", alone), ("beside", both))}
    ratio = late["beside"] / late["alone"]
    # On a machine that is busy with other things live requests may seem to have taken all that the engine gives.
    share = both.batch_tokens_per_s / max(capacity_per_s - both.live_tokens_per_s, 0.1 * capacity_per_s)
    findings.add(
        **{
            f"live_ttft_p99_ratio_{engine}": ratio,
            f"live_harvest_share_{engine}": share,
            f"live_ttft_p99_ms_{engine}": late["beside"] * 1000,
            f"live_ttft_p99_alone_ms_{engine}": late["alone"] * 1000,
        }
    )
    tell(
        f"live, {engine}: first token at the 99th of a hundred {late['beside'] * 1000:.0f} ms beside a batch, "
        f"{late['alone'] * 1000:.0f} ms without ({ratio:.2f}); the batch had {share:.2f} of the rest"
    )
