"""How long commands and servers take until they do what they were started for."""

import subprocess
import sys
import time

from bench.findings import CHILD_TIMEOUT_S, Findings, Setting, tell
from bench.server_cost import measure_recoveries
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["measure_starts"]

_REPEATS = 5


def measure_starts(setting: Setting, findings: Findings) -> None:
    """The help, a server on a data directory that is there, and a server that was killed over a batch."""
    repeats = setting.count_repeats(_REPEATS)
    server = BackfillServer(setting.make_folder() / "data", name_null_engine("http://127.0.0.1:9", setting.concurrency))
    # The first start writes the database, and what is read from the disk is in memory from then on.
    _time_ready(server)
    for number in range(repeats):
        tell(f"starts, run {number + 1} of {repeats}")
        help_s, ready_s = _time_help(), _time_ready(server)
        findings.add(help_s=help_s, ready_s=ready_s)
        tell(f"  help {help_s:.3f} s, ready {ready_s:.3f} s")
    if "recover_s" not in findings.timings:
        measure_recoveries(setting, findings)


def _time_help() -> float:
    started = time.monotonic()
    command = [sys.executable, "-m", "backfill", "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=CHILD_TIMEOUT_S, check=True)
    return time.monotonic() - started


def _time_ready(server: BackfillServer) -> float:
    started = time.monotonic()
    with server:
        return time.monotonic() - started
