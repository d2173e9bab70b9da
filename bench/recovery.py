"""A server is killed in the middle of a batch and started again: how soon it goes on, and what it does twice."""

import time
from dataclasses import dataclass
from pathlib import Path

from backfill.journal import Fold
from backfill.store import LocalBlobs
from bench.exactness import Redone, count_redone
from bench.input_file import make_marker
from bench.null.process import NullEngine
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import POLL_S, check_results, upload

__all__ = ["Recovery", "measure_recovery", "read_finished"]

# So long is each answer kept back that the engine is never idle and a short file is still half done when it should be.
_DELAY_MS_MIN = 5
_HALF_S_MIN = 1.0
_RETURN_TIMEOUT_S = 60


@dataclass(frozen=True)
class Recovery:
    """What one kill and restart came to."""

    recover_s: float
    """From the start of the process to the first request at the engine."""
    after_ready_s: float
    """The same from the moment at which the server says that it answers; negative if the request came before."""
    finished: int
    """Lines that had their record on disk at the kill."""
    redone: Redone
    violations: list[str]


def measure_recovery(folder: Path, path: Path, lines: int, concurrency: int, timeout_s: float) -> Recovery:
    """Kill a server that is half-way through a batch of `lines`, start it again and let it finish."""
    delay_ms = max(_DELAY_MS_MIN, 2000 * _HALF_S_MIN * concurrency / lines)
    data_dir = folder / "data"
    with (
        NullEngine(delay_ms=delay_ms) as engine,
        BackfillServer(data_dir, name_null_engine(engine.url, concurrency)) as server,
    ):
        batch_id = server.create_batch(upload(server, "multipart", path)[0])
        engine.wait_for(lambda stats: stats["received"] >= lines // 2, timeout_s)
        server.kill()
        engine.wait_for(lambda stats: stats["in_flight"] == 0)
        received_before = engine.markers()
        finished = read_finished(data_dir, batch_id, lines)

        started_ns = time.monotonic_ns()
        server.start()
        ready_ns = time.monotonic_ns()
        engine.wait_for(lambda stats: stats["received"] > len(received_before), _RETURN_TIMEOUT_S)
        batch = server.wait_for_end(batch_id, timeout_s, POLL_S)

        received = [(marker, at_ns) for event, marker, at_ns in engine.log() if event == "received"]
        received_after = received[len(received_before) :]
        redone = count_redone(received_before, [marker for marker, _ in received_after], finished)
        violations = check_results(server, batch, lines)
        if redone.finished:
            violations.append(f"{redone.finished} finished lines were run again")
        first_ns = received_after[0][1]
        return Recovery(
            recover_s=(first_ns - started_ns) / 1e9,
            after_ready_s=(first_ns - ready_ns) / 1e9,
            finished=len(finished),
            redone=redone,
            violations=violations,
        )


def read_finished(data_dir: Path, batch_id: str, lines: int) -> set[str]:
    """The markers of the lines that have a record in the journal, as it lies on disk."""
    fold = Fold(LocalBlobs(data_dir / "blobs"), batch_id, lines)
    try:
        fold.refresh()
        return {make_marker(line) for line, outcome in enumerate(fold.outcomes) if outcome}
    finally:
        fold.close()
