"""A batch from upload to output file, through a real server and the null engine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.child import run_child
from bench.exactness import find_violations, read_custom_ids
from bench.input_file import make_custom_id
from bench.null.process import NullEngine
from bench.process_usage import read_cpu_s, read_peak_mb, read_resident_mb, reset_peak
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["POLL_S", "WholePath", "check_results", "measure_whole_path", "upload"]

POLL_S = 0.03
_POLL_MOST_S = 1.0
_UPLOAD_TIMEOUT_S = 180
# Long enough for the server's start to be over, so that its memory is at rest.
_REST_S = 1.0


@dataclass(frozen=True)
class WholePath:
    """What one run of a batch came to."""

    rps: float
    """Lines by the seconds from the request that creates the batch to COMPLETED."""
    cpu_s_per_1000: float
    create_to_first_request_s: float
    idle_mb: float
    peak_over_idle_mb: float
    """Over upload and batch."""
    peak_is_reset: bool
    """False: the system did not allow it, and the peak is that since the server's start."""
    violations: list[str]


def upload(server: BackfillServer, way: str, path: Path) -> tuple[str, float]:
    """Upload from another process; the file's id and the seconds it took."""
    answer = run_child("send_file", way, server.url, path, timeout_s=_UPLOAD_TIMEOUT_S)
    return answer["file_id"], answer["seconds"]


def check_results(server: BackfillServer, batch: dict[str, str | None], lines: int) -> list[str]:
    """What is wrong with the files of a batch that has ended."""
    output = read_custom_ids(server.download(batch["output_file_id"]))
    error = read_custom_ids(server.download(batch["error_file_id"]))
    violations = find_violations([make_custom_id(line) for line in range(lines)], output, error)
    # The null engine answers every request: an error line is a loss that it never caused.
    return [*violations, f"{len(error)} lines are in the error file"] if error else violations


def measure_whole_path(
    folder: Path,
    path: Path,
    lines: int,
    concurrency: int,
    timeout_s: float,
    *,
    settings: Mapping[str, str] | None = None,
) -> WholePath:
    """Run one batch of `lines` on a fresh server, with these other settings, and a fresh engine."""
    with (
        NullEngine() as engine,
        BackfillServer(folder / "data", name_null_engine(engine.url, concurrency), settings) as server,
    ):
        time.sleep(_REST_S)
        peak_is_reset = reset_peak(server.pid)
        idle_mb = read_resident_mb(server.pid)
        file_id, _ = upload(server, "multipart", path)
        cpu_before_s = read_cpu_s(server.pid)
        created_at, started = time.time(), time.perf_counter()
        batch_id = server.create_batch(file_id)
        batch = server.wait_for_end(batch_id, timeout_s, POLL_S, _POLL_MOST_S)
        seconds = time.perf_counter() - started
        cpu_s = read_cpu_s(server.pid) - cpu_before_s
        peak_mb = read_peak_mb(server.pid)
        stats = engine.stats()
        violations = check_results(server, batch, lines)
        if stats["received"] != lines:
            violations.append(f"the engine received {stats['received']} requests for {lines} lines")
        return WholePath(
            rps=lines / seconds,
            cpu_s_per_1000=1000 * cpu_s / lines,
            create_to_first_request_s=(stats["first_received_at"] or float("nan")) - created_at,
            idle_mb=idle_mb,
            peak_over_idle_mb=peak_mb - idle_mb,
            peak_is_reset=peak_is_reset,
            violations=violations,
        )
