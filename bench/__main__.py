"""All measurements: `python -m bench` tells on stderr what it does and prints one JSON object on stdout.

A timing never fails the run. A result that is incomplete, doubled or out of order does, and so does a finished line
that is run again: then the exit code is 1 and `violations` says what happened.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.child import run_child
from bench.engine_process import NullEngine
from bench.input_file import write_input_file
from bench.recovery import measure_recovery
from bench.report import make_report
from bench.server_process import BackfillServer
from bench.whole_path import measure_whole_path, upload

__all__ = ["main"]

_RESULTS = Path(__file__).resolve().parent / "results"
_CHILD_TIMEOUT_S = 180
_BATCH_TIMEOUT_S = 300
# Uploads take under a second each, so more of them fit into the same time.
_UPLOADS_PER_REPEAT = 2


@dataclass
class Findings:
    """What was measured so far."""

    timings: dict[str, list[float]] = field(default_factory=dict)
    """Name -> the figure of each run."""
    facts: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def add(self, **figures: float) -> None:
        """Take in the figures of one run."""
        for name, figure in figures.items():
            self.timings.setdefault(name, []).append(figure)


@dataclass(frozen=True)
class Setting:
    """What every measurement is given."""

    folder: Path
    input_path: Path
    lines: int
    concurrency: int
    repeats: int

    def make_folder(self) -> Path:
        """A new folder for one run."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _measure_batches(setting: Setting, findings: Findings) -> None:
    """The bare loops and the whole path take turns: the machine drifts, and so it drifts for all of them."""
    for number in range(setting.repeats):
        _tell(f"requests, run {number + 1} of {setting.repeats}")
        sizes = ("--lines", setting.lines, "--concurrency", setting.concurrency)
        for client, name in (("engine", "bare_loop"), ("plain", "plain_aiohttp")):
            with NullEngine() as engine:
                bare = run_child("bare_loop", engine.url, "--client", client, *sizes, timeout_s=_CHILD_TIMEOUT_S)
            findings.add(**{f"{name}_rps": bare["rps"], f"{name}_cpu_s_per_1000": bare["cpu_s_per_1000"]})
            _tell(f"  {name}: {bare['rps']:.0f} requests/s, {bare['cpu_s_per_1000']:.3f} CPU s per 1,000")
        path = measure_whole_path(
            setting.make_folder(), setting.input_path, setting.lines, setting.concurrency, _BATCH_TIMEOUT_S
        )
        findings.add(
            null_engine_rps=path.rps,
            cpu_s_per_1000=path.cpu_s_per_1000,
            peak_over_idle_mb=path.peak_over_idle_mb,
            idle_mb=path.idle_mb,
            create_to_first_request_s=path.create_to_first_request_s,
        )
        findings.facts["peak_method"] = "VmHWM, reset before" if path.peak_is_reset else "VmHWM since the start"
        findings.violations += path.violations
        _tell(f"  whole path: {path.rps:.0f} requests/s, {path.cpu_s_per_1000:.3f} CPU s per 1,000")
        _tell(f"  first request after {path.create_to_first_request_s:.3f} s")
        _tell(f"  {path.peak_over_idle_mb:.0f} MB above the {path.idle_mb:.0f} MB at rest")


def _measure_uploads(setting: Setting, findings: Findings) -> None:
    """Nothing is sent to an engine: its address is one where nobody listens."""
    with BackfillServer(setting.make_folder() / "data", "http://127.0.0.1:9", setting.concurrency) as server:
        runs = setting.repeats * _UPLOADS_PER_REPEAT
        for number in range(runs):
            _tell(f"uploads, run {number + 1} of {runs}")
            floors = run_child("file_floors", setting.input_path, timeout_s=_CHILD_TIMEOUT_S)
            _, multipart_s = upload(server, "multipart", setting.input_path)
            _, put_s = upload(server, "put", setting.input_path)
            findings.add(
                upload_validate_s=multipart_s,
                decode_floor_s=floors["decode_s"],
                put_validate_s=put_s,
                durable_copy_floor_s=floors["durable_copy_s"],
            )
            _tell(f"  multipart {multipart_s:.3f} s, put {put_s:.3f} s")
            _tell(f"  floors: decode {floors['decode_s']:.3f} s, durable copy {floors['durable_copy_s']:.3f} s")


def _measure_recoveries(setting: Setting, findings: Findings) -> None:
    in_flight, finished = [], []
    for number in range(setting.repeats):
        _tell(f"recovery, run {number + 1} of {setting.repeats}")
        recovery = measure_recovery(
            setting.make_folder(), setting.input_path, setting.lines, setting.concurrency, _BATCH_TIMEOUT_S
        )
        findings.add(recover_s=recovery.recover_s, recover_after_ready_s=recovery.after_ready_s)
        in_flight.append(recovery.redone.in_flight)
        finished.append(recovery.redone.finished)
        findings.violations += recovery.violations
        _tell(f"  first request {recovery.recover_s:.3f} s after the start, {recovery.after_ready_s:.3f} s after ready")
        _tell(f"  {recovery.finished} lines were finished, {recovery.redone.finished} of them redone")
        _tell(f"  {recovery.redone.in_flight} lines were received twice, with {setting.concurrency} in flight at most")
    # Of promises the worst run counts, not the median.
    findings.facts |= {"redone_finished": max(finished), "redone_in_flight": max(in_flight)}


_PARTS: dict[str, Callable[[Setting, Findings], None]] = {
    "batches": _measure_batches,
    "uploads": _measure_uploads,
    "recoveries": _measure_recoveries,
}


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Backfill on a null engine.")
    parser.add_argument("--lines", type=int, default=50_000, help="lines of 2,000 bytes in the input file")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each measurement; the median is reported")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight at most")
    parser.add_argument("--only", choices=_PARTS, help="measure only this; the other figures are null")
    options = parser.parse_args()
    if min(options.lines, options.repeats, options.concurrency) < 1:
        parser.error("--lines, --repeats and --concurrency must be 1 or more")
    return options


def main() -> int:
    """Measure, print, and say whether all promises were kept."""
    options = _parse_options()
    if not Path("/proc/self/clear_refs").exists():
        _tell("the measurements read CPU and memory from /proc: they need Linux")
        return 2
    # Ended politely, it ends the processes that it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Beside the checkout and not in a temporary folder, which may lie in memory: then syncing would cost nothing.
    _RESULTS.mkdir(exist_ok=True)
    findings = Findings(facts={"lines": options.lines, "concurrency": options.concurrency, "repeats": options.repeats})
    # Whoever reads the figures should see whether the machine had other work.
    findings.facts |= {"processors": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2)}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", dir=_RESULTS) as folder:
        input_path = write_input_file(Path(folder) / "input.jsonl", options.lines)
        setting = Setting(Path(folder), input_path, options.lines, options.concurrency, options.repeats)
        for name, measure in _PARTS.items():
            if options.only in (None, name):
                measure(setting, findings)
    findings.facts["seconds_in_all"] = round(time.monotonic() - started, 1)
    for violation in findings.violations:
        _tell(f"VIOLATION: {violation}")
    print(json.dumps(make_report(findings.timings, findings.facts, findings.violations)))
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())
