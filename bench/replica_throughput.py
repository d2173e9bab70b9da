"""Two replicas, one four times slower: together beside each alone; and one that is killed in the middle."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from bench.batch_run import run_batch
from bench.exactness import find_violations, read_custom_ids
from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import make_custom_id, write_input_file
from bench.null.process import NullEngine
from bench.recovery import read_finished
from bench.server_process import BackfillServer
from bench.whole_path import POLL_S, upload

__all__ = ["Killed", "measure_kill", "measure_replicas"]

_REPEATS = 3
_PLACES = 32
_FAST_MS, _SLOW_MS = 100, 400
# At 32 places and these delays 320 and 80 lines a second: each run takes some 10 s.
_FAST_LINES, _SLOW_LINES = 3_200, 800
_KILL_LINES = 3_000
_KILL_AT = 0.4
_CONCURRENCY = 128


@dataclass(frozen=True)
class Killed:
    """What a batch came to of whose two replicas one was killed for good."""

    finished: int
    """Lines that had their record on disk just before the kill."""
    lost: int
    """Lines without an answer at the end: neither missing nor in the error file may any be."""
    redone: int
    """Lines that had their record and were sent again."""
    violations: list[str]


def measure_replicas(setting: Setting, findings: Findings) -> None:
    """Together and alone take turns; then the kill."""
    lines = {"fast": setting.scale(_FAST_LINES), "slow": setting.scale(_SLOW_LINES)}
    lines["both"] = lines["fast"] + lines["slow"]
    paths = {name: write_input_file(setting.make_folder() / "input.jsonl", count) for name, count in lines.items()}
    for number in range(setting.count_repeats(_REPEATS)):
        speeds = {name: _measure_speed(setting, findings, name, path) for name, path in paths.items()}
        findings.add(two_replicas_lines_per_s=speeds["both"], one_by_one_lines_per_s=speeds["fast"] + speeds["slow"])
        told = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
        tell(f"replicas, run {number + 1}: {told} lines/s")
    killed = measure_kill(setting.make_folder(), setting.scale(_KILL_LINES))
    findings.facts |= {"replica_killed_lost": killed.lost, "replica_killed_redone": killed.redone}
    findings.violations += killed.violations
    tell(f"a replica killed: {killed.finished} lines were finished, {killed.lost} lost, {killed.redone} redone")


def _measure_speed(setting: Setting, findings: Findings, which: str, path: Path) -> float:
    """Lines a second with one of the replicas, or both, on a server that knows neither yet."""
    fast = NullEngine(delay_ms=_FAST_MS, places=_PLACES)
    slow = NullEngine(delay_ms=_SLOW_MS, places=_PLACES)
    with fast, slow:
        urls = {"fast": fast.url, "slow": slow.url}
        engines = {
            name: {"url": url, "concurrency": _CONCURRENCY} for name, url in urls.items() if which in (name, "both")
        }
        with BackfillServer(setting.make_folder() / "data", engines) as server:
            run = run_batch(server, path, checks_lengths=False)
    findings.violations += [f"replicas, {which}: {one}" for one in run.violations]
    return run.lines_per_s


def measure_kill(folder: Path, lines: int) -> Killed:
    """Kill one of two equal replicas with SIGKILL when the batch is under way, and let the other finish."""
    path = write_input_file(folder / "input.jsonl", lines)
    logs = [folder / "first.log", folder / "second.log"]
    first, second = (NullEngine(delay_ms=_FAST_MS, places=_PLACES, log_path=log) for log in logs)
    with first, second:
        engines = {name: {"url": one.url, "concurrency": _CONCURRENCY} for name, one in (("a", first), ("b", second))}
        with BackfillServer(folder / "data", engines) as server:
            batch_id = server.create_batch(upload(server, "multipart", path)[0])
            first.wait_for(lambda stats: stats["received"] >= _KILL_AT * lines / 2, BATCH_TIMEOUT_S)
            finished = read_finished(folder / "data", batch_id, lines)
            read_at_ns = time.monotonic_ns()
            first.kill()
            batch = server.wait_for_end(batch_id, BATCH_TIMEOUT_S, POLL_S)
            output = read_custom_ids(server.download(batch["output_file_id"]))
            error = read_custom_ids(server.download(batch["error_file_id"]))
    again = {marker for log in logs for marker in _read_received_since(log, read_at_ns)} & finished
    lost = lines - len(set(output))
    violations = find_violations([make_custom_id(line) for line in range(lines)], output, error)
    if error:
        violations.append(f"{len(error)} lines are in the error file")
    if again:
        violations.append(f"{len(again)} finished lines were run again")
    return Killed(len(finished), lost, len(again), [f"a replica killed: {one}" for one in violations])


def _read_received_since(log: Path, since_ns: int) -> set[str]:
    events = map(json.loads, log.read_text().splitlines())
    return {marker for event, marker, at_ns in events if event == "received" and at_ns > since_ns}
