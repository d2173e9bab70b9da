"""Measurements that need a fresh process: each prints one JSON object, and its clock runs inside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run_child"]

_ROOT = Path(__file__).resolve().parent.parent


def run_child(module: str, *arguments: object, timeout_s: float) -> dict[str, Any]:
    """Run `python -m bench.<module>` to its end and return what it printed.

    Raises:
        subprocess.CalledProcessError: it failed; its reason is on stderr.
        subprocess.TimeoutExpired: it took too long, and was killed.

    """
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, timeout=timeout_s, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
