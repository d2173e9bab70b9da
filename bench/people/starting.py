"""How long people wait before anything happens: for the import of the library, and for the help."""

import subprocess
import sys
import time

from bench.findings import CHILD_TIMEOUT_S, Findings, Setting, tell

__all__ = ["measure_starting"]

_REPEATS = 7
# As the program itself sees it: its own interpreter is not ours to make faster.
_IMPORT = "import time; began = time.perf_counter(); import backfill; print((time.perf_counter() - began) * 1000)"


def measure_starting(setting: Setting, findings: Findings) -> None:
    """`import backfill` within a program, and `backfill --help` as a process."""
    for _ in range(setting.count_repeats(_REPEATS)):
        imported = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=True
        )
        began = time.monotonic()
        command = [sys.executable, "-m", "backfill", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=CHILD_TIMEOUT_S, check=True)
        findings.add(import_ms=float(imported.stdout), help_ms=(time.monotonic() - began) * 1000)
    middle = {
        name: sorted(findings.timings[name])[len(findings.timings[name]) // 2] for name in ("import_ms", "help_ms")
    }
    tell(f"starting: import {middle['import_ms']:.0f} ms, help {middle['help_ms']:.0f} ms")
