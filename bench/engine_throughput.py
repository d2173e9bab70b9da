"""Tokens a second through Backfill, beside the best closed loop on the same engine, and engine beside engine."""

from statistics import median

from bench.batch_run import run_batch
from bench.closed_loop_process import ClosedLoop, EngineMissingError
from bench.embedded_engines import SLOTS, Sides, configure_engines, describe_faults, open_sides, warm_up, write_workload
from bench.findings import Findings, Setting, tell
from bench.server_process import BackfillServer
from bench.workloads import make_chats

__all__ = ["choose_concurrencies", "measure_engines"]

_REPEATS = 3
_ANSWER_TOKENS = (16, 32, 48, 64, 96)
# Some 10 s a side on two cores.
_LINES = {"openvino": 128, "llamacpp": 48}
_SWEPT = {"openvino": (1, 4, 8, 16, 32, 64), "llamacpp": (1, 2, 4, 8, 16)}
# So many requests a worker: with fewer the end, when workers have nothing left, would weigh more than the rest.
_SWEEP_LINES_PER_WORKER = 3
# Speeds of a sweep that differ by less are tried again, because one run says no more.
_NEAR = 0.9
_FINALISTS = 2
_PAIR_LINES, _PAIR_TOKENS = 64, 48


def measure_engines(setting: Setting, findings: Findings) -> None:
    """All of it; an engine that cannot be had here is told of and left out."""
    had = []
    for engine in SLOTS:
        try:
            with open_sides(setting, engine, engine) as sides:
                _measure_engine(setting, findings, engine, sides)
        except EngineMissingError as error:
            tell(f"{engine}: left out: {error}")
            findings.facts[f"{engine}_left_out"] = str(error)
        else:
            had.append(engine)
    if len(had) == len(SLOTS):
        _measure_pair(setting, findings)


def choose_concurrencies(speeds: dict[int, float]) -> list[int]:
    """The numbers of workers that may be the best, the likeliest first, given the speed of each in one run."""
    ordered = sorted(speeds, key=lambda concurrency: -speeds[concurrency])
    return [one for one in ordered if speeds[one] >= _NEAR * speeds[ordered[0]]][:_FINALISTS]


def _measure_engine(setting: Setting, findings: Findings, engine: str, sides: Sides) -> None:
    """The best fixed concurrencies of a sweep are run in each repeat; the one with the greatest median counts."""
    finalists = choose_concurrencies(_sweep(setting, findings, engine, sides.loop))
    through: list[float] = []
    fixed: dict[int, list[float]] = {concurrency: [] for concurrency in finalists}
    lines = setting.scale(_LINES[engine])
    for number in range(setting.count_repeats(_REPEATS)):
        path = write_workload(setting, make_chats(engine, lines, _ANSWER_TOKENS, f"{engine} {number}"))
        batch = run_batch(sides.server, path)
        findings.violations += describe_faults(batch, f"{engine} through Backfill")
        through.append(batch.tokens_per_s)
        tell(f"{engine}, run {number + 1}: {batch.tokens_per_s:.1f} tokens/s through Backfill in {batch.seconds:.1f} s")
        for turn, concurrency in enumerate(finalists):
            salt = f"{engine} {number} {turn}"
            path = write_workload(setting, make_chats(engine, lines, _ANSWER_TOKENS, salt))
            loop = sides.loop.run(path, concurrency)
            findings.violations += describe_faults(loop, f"{engine} in a closed loop")
            fixed[concurrency].append(loop.tokens_per_s)
            tell(f"  {loop.tokens_per_s:.1f} with {concurrency} workers in {loop.seconds:.1f} s")
    best = max(finalists, key=lambda concurrency: median(fixed[concurrency]))
    findings.facts[f"{engine}_best_fixed_concurrency"] = best
    for ours, theirs in zip(through, fixed[best], strict=True):
        findings.add(**{f"{engine}_tokens_per_s": ours, f"{engine}_best_fixed_tokens_per_s": theirs})


def _sweep(setting: Setting, findings: Findings, engine: str, loop: ClosedLoop) -> dict[int, float]:
    speeds = {}
    for concurrency in _SWEPT[engine]:
        lines = max(concurrency, setting.scale(_SWEEP_LINES_PER_WORKER * concurrency))
        bodies = make_chats(engine, lines, _ANSWER_TOKENS, f"{engine} sweep {concurrency}")
        run = loop.run(write_workload(setting, bodies), concurrency)
        findings.violations += describe_faults(run, f"{engine} in a closed loop")
        speeds[concurrency] = run.tokens_per_s
        tell(f"{engine}: {run.tokens_per_s:.1f} tokens/s with {concurrency} workers")
    findings.facts[f"{engine}_sweep_tokens_per_s"] = {str(key): round(speed, 1) for key, speed in speeds.items()}
    return speeds


def _measure_pair(setting: Setting, findings: Findings) -> None:
    """OpenVINO and llama.cpp behind one server, the same chats for both."""
    lines = setting.scale(_PAIR_LINES)
    with BackfillServer(setting.make_folder() / "data", configure_engines(*SLOTS)) as server:
        for engine in SLOTS:
            warm_up(server, setting, engine)
        for number in range(setting.count_repeats(_REPEATS)):
            for engine in SLOTS:
                path = write_workload(setting, make_chats(engine, lines, (_PAIR_TOKENS,), f"pair {number}"))
                run = run_batch(server, path)
                findings.violations += describe_faults(run, f"{engine} beside the other")
                findings.add(**{f"{engine}_pair_tokens_per_s": run.tokens_per_s})
                tell(f"{engine}: {run.tokens_per_s:.1f} tokens/s on {lines} chats")
