"""The whole of `python -m bench`, small: it measures, keeps its promises and prints what was agreed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.report import KEYS

ROOT = Path(__file__).resolve().parents[3]
NULL_PARTS = ("batches", "many", "uploads", "recoveries", "starts", "replicas", "full", "people")
REAL_PARTS = ("engines", "prefixes")
OF_THE_SERVICE = (
    "found_",
    "forecast_",
    "fair_",
    "deadline_",
    "money_",
    "quota_",
    "hostile_",
    "image_",
    "data_url_",
    "clips_",
    "long_audio_",
    "claim_",
    "rows_postgres_",
    "workers_",
    "remote_store_",
    "ray_",
    "takeover_",
    "storm_",
    "sim_",
)
"""The beginnings of keys that other parts measure, each with a smaller test of its own."""


def measure(*parts: str, lines: int, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", "--lines", str(lines), "--repeats", "1"]
    command += [word for part in parts for word in ("--only", part)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # Killed, it would leave its servers and engines behind.
            process.terminate()
            raise
    assert process.returncode == 0, err.decode()
    report: dict[str, Any] = json.loads(out)
    assert tuple(report)[: len(KEYS)] == KEYS
    assert report["violations"] == []
    return report


def is_of_real_engines(key: str) -> bool:
    return "openvino" in key or "llamacpp" in key


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_measurements_on_null_engines_run() -> None:
    report = measure(*NULL_PARTS, lines=300, timeout_s=240)
    missing = {key for key in KEYS if report[key] is None}
    assert missing == {key for key in KEYS if is_of_real_engines(key) or key.startswith(OF_THE_SERVICE)}
    assert report["lines"] == 300
    assert report["redone_finished"] == 0
    assert report["redone_in_flight"] <= report["concurrency"]
    assert (report["replica_killed_lost"], report["replica_killed_redone"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_measurements_on_databases_and_on_ray_run() -> None:
    report = measure("scale", lines=300, timeout_s=540)
    beginnings = ("claim_", "rows_postgres_", "workers_", "remote_store_", "ray_", "takeover_", "storm_", "sim_")
    measured = {key for key in KEYS if key.startswith(beginnings)}
    assert len(measured) == 14
    assert {key for key in measured if report[key] is None} == set()
    assert (report["storm_lost"], report["storm_doubled"], report["storm_redone_finished"]) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_measurements_on_real_engines_run() -> None:
    report = measure(*REAL_PARTS, lines=20, timeout_s=540)
    measured = {key for key in KEYS if is_of_real_engines(key)}
    assert len(measured) == 9
    assert {key for key in measured if report[key] is None} == set()
    assert measured <= report["spread"].keys()
