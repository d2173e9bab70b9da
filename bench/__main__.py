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
from pathlib import Path

from bench.engine_throughput import measure_engines
from bench.filling import measure_filling
from bench.findings import Findings, Setting, tell
from bench.found_throughput import measure_found
from bench.input_file import write_input_file
from bench.many_batches import measure_many
from bench.media.part import measure_media
from bench.people.part import measure_people
from bench.prefix_throughput import measure_prefixes
from bench.replica_throughput import measure_replicas
from bench.report import make_report
from bench.scale.objects import measure_objects
from bench.scale.part import measure_scale
from bench.server_cost import measure_batches, measure_recoveries, measure_uploads
from bench.service.part import measure_service
from bench.starts import measure_starts

__all__ = ["main"]

_RESULTS = Path(__file__).resolve().parent / "results"

_PARTS: dict[str, Callable[[Setting, Findings], None]] = {
    "batches": measure_batches,
    "many": measure_many,
    "uploads": measure_uploads,
    "recoveries": measure_recoveries,
    "starts": measure_starts,
    "engines": measure_engines,
    "prefixes": measure_prefixes,
    "replicas": measure_replicas,
    "full": measure_filling,
    "found": measure_found,
    "service": measure_service,
    "media": measure_media,
    "people": measure_people,
    "scale": measure_scale,
    "objects": measure_objects,
}


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Backfill.")
    parser.add_argument(
        "--lines",
        type=int,
        default=50_000,
        help="lines of 2,000 bytes in the input file; what has files of its own shrinks with it",
    )
    parser.add_argument("--repeats", type=int, help="runs of each measurement; without it, as many as suit each")
    parser.add_argument("--seed", type=int, default=1, help="for what the storm of the part `scale` draws by lot")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight at most")
    parser.add_argument(
        "--only", action="append", choices=_PARTS, help="measure only this, or these if given again; the rest is null"
    )
    options = parser.parse_args()
    if min(options.lines, options.concurrency, options.repeats or 1) < 1:
        parser.error("--lines, --repeats and --concurrency must be 1 or more")
    return options


def main() -> int:
    """Measure, print, and say whether all promises were kept."""
    options = _parse_options()
    if not Path("/proc/self/clear_refs").exists():
        tell("the measurements read CPU and memory from /proc: they need Linux")
        return 2
    # Ended politely, it ends the processes that it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Beside the checkout and not in a temporary folder, which may lie in memory: then syncing would cost nothing.
    _RESULTS.mkdir(exist_ok=True)
    findings = Findings(
        facts={"lines": options.lines, "concurrency": options.concurrency, "repeats": options.repeats or "each its own"}
    )
    # Whoever reads the figures should see whether the machine had other work.
    findings.facts |= {"processors": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2)}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="run-", dir=_RESULTS) as folder:
        input_path = write_input_file(Path(folder) / "input.jsonl", options.lines)
        setting = Setting(Path(folder), input_path, options.lines, options.concurrency, options.repeats, options.seed)
        for name, measure in _PARTS.items():
            if options.only is None or name in options.only:
                measure(setting, findings)
    findings.facts["seconds_in_all"] = round(time.monotonic() - started, 1)
    for violation in findings.violations:
        tell(f"VIOLATION: {violation}")
    print(json.dumps(make_report(findings.timings, findings.facts, findings.violations)))
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())
