"""The whole of `python -m bench`, small: it measures, keeps its promises and prints what was agreed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.report import KEYS

ROOT = Path(__file__).resolve().parents[3]
NULL_PARTS = ("batches", "uploads", "recoveries", "replicas", "full")
REAL_PARTS = ("engines", "prefixes")


def measure(*parts: str, lines: int, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", "--lines", str(lines), "--repeats", "1"]
    command += [word for part in parts for word in ("--only", part)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    assert tuple(report)[: len(KEYS)] == KEYS
    assert report["violations"] == []
    return report


def is_of_real_engines(key: str) -> bool:
    return "openvino" in key or "llamacpp" in key


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_measurements_on_null_engines_run() -> None:
    report = measure(*NULL_PARTS, lines=300, timeout_s=170)
    missing = {key for key in KEYS if report[key] is None}
    assert missing == {key for key in KEYS if is_of_real_engines(key) or key.startswith("found_")}
    assert report["lines"] == 300
    assert report["redone_finished"] == 0
    assert report["redone_in_flight"] <= report["concurrency"]
    assert (report["replica_killed_lost"], report["replica_killed_redone"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(300)
def test_the_measurements_on_real_engines_run() -> None:
    report = measure(*REAL_PARTS, lines=20, timeout_s=290)
    measured = {key for key in KEYS if is_of_real_engines(key)}
    assert len(measured) == 9
    assert {key for key in measured if report[key] is None} == set()
    assert measured <= report["spread"].keys()
