"""How soon a slow engine with much room is full, and how full it stays: 2 s an answer, 2,000 at once."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.batch_run import run_batch
from bench.findings import Findings, Setting, tell
from bench.input_file import write_input_file
from bench.null.process import NullEngine
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["Filling", "Sample", "judge_filling", "measure_filling"]

_DELAY_MS = 2_000
_PLACES = 2_000
_FULL = 0.95
_SAMPLE_S = 0.1
_LINES = 50_000


class Sample(NamedTuple):
    """What the engine said of itself at one moment."""

    at_s: float
    """Since the moment before the batch is created."""
    in_flight: int
    received: int


@dataclass(frozen=True)
class Filling:
    """How the engine was filled."""

    full_after_s: float | None
    """Until at least 95 % of its places were taken; None: never."""
    full_share: float
    """Of the samples from then until only as many lines as it has places were left to send."""
    mean_share: float
    """Of its places that were taken in those samples, on average."""


def judge_filling(samples: Sequence[Sample], lines: int, places: int) -> Filling:
    """Judge samples at equal distances."""
    needed = _FULL * places
    first = next((number for number, sample in enumerate(samples) if sample.in_flight >= needed), None)
    if first is None:
        return Filling(None, 0.0, 0.0)
    counted = [sample.in_flight for sample in samples[first:] if sample.received <= lines - places]
    if not counted:
        return Filling(samples[first].at_s, 0.0, 0.0)
    full_share = sum(in_flight >= needed for in_flight in counted) / len(counted)
    return Filling(samples[first].at_s, full_share, sum(counted) / len(counted) / places)


def measure_filling(setting: Setting, findings: Findings) -> None:
    """One batch for each repeat, each on a server that does not know the engine."""
    lines = setting.scale(_LINES)
    places = min(_PLACES, max(1, lines // 10))
    path = setting.input_path
    if lines != setting.lines:
        path = write_input_file(setting.make_folder() / "input.jsonl", lines)
    for number in range(setting.count_repeats(1)):
        samples: list[Sample] = []
        with (
            NullEngine(delay_ms=_DELAY_MS, places=places) as engine,
            BackfillServer(setting.make_folder() / "data", name_null_engine(engine.url, places)) as server,
        ):
            stopped = threading.Event()
            sampler = threading.Thread(target=_sample, args=(engine, samples, stopped))
            sampler.start()
            try:
                run = run_batch(server, path, checks_lengths=False)
            finally:
                stopped.set()
                sampler.join()
        findings.violations += [f"filling: {one}" for one in run.violations]
        samples = [sample._replace(at_s=sample.at_s - run.started_s) for sample in samples]
        filling = judge_filling(samples, lines, places)
        findings.add(full_share=filling.full_share, full_mean_share=filling.mean_share)
        findings.add(full_lines_per_s=run.lines_per_s)
        if filling.full_after_s is not None:
            findings.add(full_after_s=filling.full_after_s)
        findings.facts["full_places"] = places
        tell(
            f"filling, run {number + 1}: 95 % of {places} after {filling.full_after_s} s, then {filling.full_share:.3f}"
        )


def _sample(engine: NullEngine, samples: list[Sample], stopped: threading.Event) -> None:
    """Ask again and again; a sample that is late does not delay those after it."""
    due_s = time.perf_counter()
    while not stopped.wait(max(0.0, due_s - time.perf_counter())):
        stats = engine.stats()
        samples.append(Sample(time.perf_counter(), stats["in_flight"], stats["received"]))
        due_s = max(due_s + _SAMPLE_S, time.perf_counter())
