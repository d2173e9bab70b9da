"""A worker is killed while lines of a batch are with its engine: how soon another one sends them again."""

import time
from contextlib import ExitStack

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import write_input_file
from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import POLL_S, check_results, upload

__all__ = ["measure_takeover"]

# Not so many that the batch is cut: then one worker alone has it.
_LINES = 500
_PLACES = 8
_ANSWER_MS = 500
_RETURN_TIMEOUT_S = 90
_POLL_MOST_S = 1.0


def measure_takeover(setting: Setting, findings: Findings) -> None:
    """Workers have data directories of their own, and leases as long as they are without settings."""
    with PostgresServer(parent=setting.folder.parent) as rows, ObjectServer(setting.make_folder()) as objects:
        for number in range(setting.count_repeats(1)):
            settings = {name.replace(".", "__"): value for name, value in objects.settings().items()}
            settings["store__metadata"] = rows.make_database(f"takeover-{number}")
            takeover_s = _measure(setting, findings, settings)
            findings.add(takeover_s=takeover_s)
            tell(f"a worker is killed, run {number + 1}: another one sends its lines after {takeover_s:.1f} s")


def _measure(setting: Setting, findings: Findings, settings: dict[str, str]) -> float:
    """Seconds from the kill to the first request at the other worker's engine."""
    folder, lines = setting.make_folder(), setting.scale(_LINES)
    path = write_input_file(folder / "taken_over.jsonl", lines)
    with ExitStack() as stack:
        api = stack.enter_context(BackfillServer(folder / "api", {}, settings | {"server__role": "api"}))
        engines = [stack.enter_context(NullEngine(delay_ms=_ANSWER_MS)) for _ in range(2)]
        workers = [
            stack.enter_context(
                BackfillServer(
                    folder / f"worker-{at}",
                    name_null_engine(engine.url, _PLACES),
                    settings | {"server__role": "work"},
                )
            )
            for at, engine in enumerate(engines)
        ]
        file_id, _ = upload(api, "multipart", path)
        batch_id = api.create_batch(file_id)
        holder = _wait_for_holder(engines)
        killed_ns = time.monotonic_ns()
        workers[holder].kill()
        other = engines[1 - holder]
        other.wait_for(lambda stats: stats["received"] > 0, _RETURN_TIMEOUT_S)
        returned_ns = other.log()[0][2]
        batch = api.wait_for_end(batch_id, BATCH_TIMEOUT_S, POLL_S, _POLL_MOST_S)
        findings.violations += [f"takeover: {one}" for one in check_results(api, batch, lines)]
    return (returned_ns - killed_ns) / 1e9


def _wait_for_holder(engines: list[NullEngine]) -> int:
    """Which engine has lines, once one has as many as it may."""
    deadline_s = time.monotonic() + _RETURN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for number, engine in enumerate(engines):
            if engine.stats()["received"] >= _PLACES:
                return number
        time.sleep(POLL_S)
    message = f"no worker took the batch within {_RETURN_TIMEOUT_S} s"
    raise TimeoutError(message)
