"""One large batch on one worker and on two: engines that are bound by latency, so that the machine is not the limit."""

import time
from contextlib import ExitStack
from pathlib import Path

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import write_input_file
from bench.null.process import NullEngine
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import POLL_S, check_results, upload

__all__ = ["measure_workers"]

_LINES = 8000
_PLACES = 100
_ANSWER_MS = 1000
_LINES_PER_TURN = 500
_POLL_MOST_S = 1.0


def measure_workers(setting: Setting, findings: Findings) -> None:
    """Both sides one after the other: SQLite, the local disk, and a process that answers HTTP beside the workers."""
    lines = setting.scale(_LINES)
    path = write_input_file(setting.make_folder() / "shared.jsonl", lines)
    for number in range(setting.count_repeats(1)):
        one, two = (_run(setting, findings, path, lines, workers) for workers in (1, 2))
        findings.add(workers_1_rps=one, workers_2_rps=two)
        tell(f"workers, run {number + 1}: {one:.1f} lines/s on one, {two:.1f} on two, {two / one:.3f} times as many")


def _run(setting: Setting, findings: Findings, path: Path, lines: int, workers: int) -> float:
    """Lines a second, from the request that creates the batch until a poll sees COMPLETED."""
    data_dir = setting.make_folder() / "data"
    settings = {"dispatch__lines_per_turn": str(min(_LINES_PER_TURN, lines // 2))}
    with ExitStack() as stack:
        engine = stack.enter_context(NullEngine(delay_ms=_ANSWER_MS))
        engines = name_null_engine(engine.url, _PLACES)
        api = stack.enter_context(BackfillServer(data_dir, {}, settings | {"server__role": "api"}))
        for _ in range(workers):
            stack.enter_context(BackfillServer(data_dir, engines, settings | {"server__role": "work"}))
        file_id, _ = upload(api, "multipart", path)
        started = time.perf_counter()
        batch = api.wait_for_end(api.create_batch(file_id), BATCH_TIMEOUT_S, POLL_S, _POLL_MOST_S)
        seconds = time.perf_counter() - started
        findings.violations += [f"{workers} workers: {one}" for one in check_results(api, batch, lines)]
        received = engine.stats()["received"]
        if received != lines:
            findings.violations.append(f"{workers} workers: the engine got {received} requests for {lines} lines")
    return lines / seconds
