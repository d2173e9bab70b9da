"""The whole of `python -m bench`, small: it measures, keeps its promises and prints what was agreed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import KEYS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_measurements_run() -> None:
    command = [sys.executable, "-m", "bench", "--lines", "300", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert tuple(report)[: len(KEYS)] == KEYS
    assert [key for key in KEYS if report[key] is None] == []
    assert report["lines"] == 300
    assert report["redone_finished"] == 0
    assert report["redone_in_flight"] <= report["concurrency"]
    assert report["violations"] == []
