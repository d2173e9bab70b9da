"""Requests/s with one, two and four workers on a Ray cluster: engines that are bound by latency, 100 places at 1 s.

They share one batch, which is cut into slices when it is admitted.
"""

import json
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path

from bench.findings import Findings, Setting, tell
from bench.input_file import write_input_file
from bench.null.process import NullEngine
from bench.scale.ray_nodes import RayNodes, find_ray
from bench.server_process import BackfillServer
from bench.whole_path import check_results, upload

__all__ = ["measure_ray_workers"]

_PLACES = 100
_DELAY_S = 1.0
# How long the engines are kept full.
_FULL_S = 40
_WORKERS = (1, 2, 4)
# The larger the batch, the less counts that at its end not all places have lines.
_LINES_PER_TURN = 500
_READY_TIMEOUT_S = 120.0
_POLL_S = 0.2
_END_TIMEOUT_S = 600


def measure_ray_workers(setting: Setting, findings: Findings) -> None:
    """One after the other; the engines take next to no time of the processor."""
    if find_ray() is None:
        tell("workers on Ray: left out, since Ray is not installed (pip install -r requirements/dev.txt)")
        return
    for _ in range(setting.count_repeats(1)):
        rates = {count: _measure(setting, findings, count) for count in _WORKERS}
        findings.add(**{f"ray_{count}_rps": rate for count, rate in rates.items()})
        findings.add(**{f"ray_{count}_over_1": rates[count] / rates[1] for count in _WORKERS[1:]})


def _measure(setting: Setting, findings: Findings, count: int) -> float:
    """Requests/s from the first request to the last answer, with so many workers."""
    folder = setting.make_folder()
    lines = int(count * _PLACES / _DELAY_S * setting.scale(50_000) / 50_000 * _FULL_S)
    path = write_input_file(folder / "input.jsonl", lines)
    with ExitStack() as stack:
        engine = stack.enter_context(NullEngine(delay_ms=1000 * _DELAY_S))
        nodes = stack.enter_context(RayNodes(nodes=2))
        config_file = _write_settings(folder, engine.url, nodes.address, count)
        stack.enter_context(nodes.letting_in())
        api, scaler = (
            BackfillServer(folder / "data", {}, {"config": str(config_file), "server__role": role})
            for role in ("api", "scale")
        )
        stack.enter_context(api)
        stack.enter_context(scaler)
        _wait_for_workers(folder / "data", count)
        file_id, _ = upload(api, "multipart", path)
        batch = api.wait_for_end(api.create_batch(file_id), _END_TIMEOUT_S, _POLL_S)
        stats = engine.stats()
        findings.violations += [f"ray: {each}" for each in check_results(api, batch, lines)]
        if stats["received"] != lines:
            findings.violations.append(f"ray: {stats['received']} requests for {lines} lines")
    rate = lines / ((stats["last_answered_at"] or 0.0) - (stats["first_received_at"] or 0.0))
    tell(f"workers on Ray: {count}, {rate:.1f} requests/s")
    return rate


def _write_settings(folder: Path, engine_url: str, address: str, count: int) -> Path:
    path = folder / "backfill.toml"
    values = {
        "data_dir": str(folder / "data"),
        "dispatch.lines_per_turn": _LINES_PER_TURN,
        "ray.address": address,
        "ray.config_file": str(path),
        "engines.null.url": engine_url,
        "engines.null.concurrency": _PLACES,
        "engines.null.first_concurrency": _PLACES,
        "engines.null.place": "ray",
        "engines.null.replicas.min": count,
        "engines.null.replicas.max": count,
    }
    # As JSON these are TOML too.
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


def _wait_for_workers(data_dir: Path, count: int) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    query = "SELECT count(*) FROM workers WHERE role = 'work'"
    with closing(sqlite3.connect(data_dir / "backfill.db", timeout=30)) as rows:
        while rows.execute(query).fetchone()[0] < count:
            if time.monotonic() > deadline:
                message = f"{count} workers did not come within {_READY_TIMEOUT_S:.0f} s"
                raise TimeoutError(message)
            time.sleep(_POLL_S)
