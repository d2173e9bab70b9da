"""A batch from its creation to COMPLETED on a server that is up, with every answer looked at."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.exactness import find_violations, read_custom_ids
from bench.findings import BATCH_TIMEOUT_S
from bench.server_process import BackfillServer
from bench.whole_path import upload
from bench.workloads import Request, read_requests

__all__ = ["BatchRun", "count_completion_tokens", "find_wrong_lengths", "run_batch"]

# Of runs of some 10 s: what a poll comes late is well under one percent.
_POLL_S = 0.03
_SHOWN = 3


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Response(msgspec.Struct):
    body: _Answer


class _OutputLine(msgspec.Struct):
    custom_id: str
    response: _Response


@dataclass(frozen=True)
class BatchRun:
    """What a batch came to."""

    lines: int
    seconds: float
    """From the request that creates the batch until a poll sees COMPLETED: with the output file."""
    completion_tokens: int
    """As the answers' usage says."""
    started_s: float = 0.0
    """When it began, on the clock of `time.perf_counter`."""
    violations: list[str] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens a second."""
        return self.completion_tokens / self.seconds

    @property
    def lines_per_s(self) -> float:
        """Lines a second."""
        return self.lines / self.seconds


def run_batch(server: BackfillServer, path: Path, *, checks_lengths: bool = True) -> BatchRun:
    """Upload the file, run it as a batch and check the results against the requests.

    `checks_lengths` is for engines that honour `max_tokens` and `ignore_eos`: every answer has to be that long.
    """
    requests = read_requests(path)
    file_id, _ = upload(server, "multipart", path)
    started = time.perf_counter()
    batch = server.wait_for_end(server.create_batch(file_id), BATCH_TIMEOUT_S, _POLL_S)
    seconds = time.perf_counter() - started
    output = server.download(batch["output_file_id"])
    errors = read_custom_ids(server.download(batch["error_file_id"]))
    violations = find_violations([one.custom_id for one in requests], read_custom_ids(output), errors)
    if errors:
        violations.append(f"{len(errors)} lines are in the error file")
    counts = count_completion_tokens(output)
    if checks_lengths:
        violations += find_wrong_lengths(requests, counts)
    return BatchRun(len(requests), seconds, sum(counts.values()), started, violations)


def count_completion_tokens(output: bytes) -> dict[str, int]:
    """Custom id -> completion tokens of its answer, of an output file."""
    decode = msgspec.json.Decoder(_OutputLine).decode
    lines = [decode(line) for line in output.splitlines()]
    return {line.custom_id: line.response.body.usage.completion_tokens for line in lines}


def find_wrong_lengths(requests: list[Request], counts: dict[str, int]) -> list[str]:
    """In words, the answers that have not the number of tokens that was asked for; empty if there are none."""
    wrong = [one.custom_id for one in requests if counts.get(one.custom_id, one.max_tokens) != one.max_tokens]
    if not wrong:
        return []
    return [f"{len(wrong)} answers have not the length asked for, such as {', '.join(sorted(wrong)[:_SHOWN])}"]
