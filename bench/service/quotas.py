"""Enqueued tokens after kill -9: what the restarted server says, against a fold of the dead one's rows and journals.

The engine stands still from each kill until the server was asked, so that nothing moves between the two. The fold here
shares no arithmetic with the server: it reads rows with SQL, counts records by line, and adds up.
"""

import json
import os
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from fractions import Fraction
from math import ceil
from pathlib import Path

from backfill.index import LineIndex
from backfill.journal import Fold
from backfill.store import LocalBlobs, index_key
from bench.findings import Findings, Setting, tell
from bench.null.process import NullEngine
from bench.send_file import send_multipart
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["fold_enqueued", "measure_quotas", "parse_enqueued"]

_KILLS = 100
_UP_S_MAX = 0.7
_UNENDED = 4
_LINES_MAX = 300
_POLL_S = 0.05
_END_TIMEOUT_S = 300.0
_MODELS = ("a", "b", "c")
_FINAL = ("COMPLETED", "CANCELLED", "FAILED", "EXPIRED")
# Of some 270 tokens a line: three batches of one model or so, and some creates are refused.
_LIMIT = 60_000


def measure_quotas(setting: Setting, findings: Findings) -> None:
    """Kill a server at random instants while reservations come, shrink and go; each time compare, and at the end."""
    kills = max(2, setting.scale(_KILLS * 500) // 500)
    dice = random.Random(9)
    folder = setting.make_folder()
    mismatches: list[str] = []
    refused = moving = 0
    limits = {"limits__enqueued_tokens": str(_LIMIT)}
    with (
        NullEngine(delay_ms=10) as engine,
        BackfillServer(folder / "data", name_null_engine(engine.url, 8), limits) as server,
    ):
        batch_ids: list[str] = []
        for number in range(kills):
            refused += _fill(server, folder, batch_ids, dice)
            time.sleep(dice.uniform(0.0, _UP_S_MAX))
            os.kill(engine.pid, signal.SIGSTOP)
            server.kill()
            expected = fold_enqueued(folder / "data")
            server.start()
            told = parse_enqueued(server.read_metrics())
            os.kill(engine.pid, signal.SIGCONT)
            moving += bool(expected)
            if told != expected:
                mismatches.append(f"kill {number + 1}: {told} is said to be enqueued, rows and journals say {expected}")
            if (number + 1) % 10 == 0:
                tell(f"quotas: {number + 1} of {kills} kills, {len(batch_ids)} batches, {refused} refused")
        for batch_id in batch_ids:
            _wait_for_any_end(server, batch_id)
        if left := parse_enqueued(server.read_metrics()):
            mismatches.append(f"{left} is enqueued after everything has ended")
    findings.add(quota_mismatches=len(mismatches))
    findings.facts |= {"quota_kills": kills, "quota_batches": len(batch_ids), "quota_refused": refused}
    findings.facts |= {"quota_kills_with_something_enqueued": moving}
    findings.violations += mismatches


def fold_enqueued(data_dir: Path) -> dict[str, int]:
    """Model -> tokens that are still to be computed, by what lies on disk; models without any are left out."""
    blobs = LocalBlobs(data_dir / "blobs")
    sums: Counter[str] = Counter()
    query = "SELECT id, input_file_id, reserved FROM batches WHERE state IN ('validating', 'in_progress')"
    connection = sqlite3.connect(data_dir / "backfill.db")
    try:
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    for batch_id, file_id, reserved in rows:
        done = _count_done(blobs, batch_id, LineIndex.decode(blobs.read(index_key(file_id))))
        for model, need in json.loads(reserved).items():
            tokens = need["prompt_tokens"] + need["completion_tokens"]
            sums[model] += ceil(tokens * (1 - Fraction(done[model], need["lines"])))
    return {model: tokens for model, tokens in sums.items() if tokens}


def parse_enqueued(metrics: str) -> dict[str, int]:
    """The same as `/metrics` tells it."""
    found = re.findall(r'(?m)^backfill_enqueued_tokens\{model="([^"]*)"\} (\S+)$', metrics)
    return {model: int(float(tokens)) for model, tokens in found if float(tokens)}


def _count_done(blobs: LocalBlobs, batch_id: str, index: LineIndex) -> Counter[str]:
    fold = Fold(blobs, batch_id, len(index))
    try:
        fold.refresh()
        done = [line for line, outcome in enumerate(fold.outcomes) if outcome]
    finally:
        fold.close()
    return Counter(index.model_names[index.models[line]] or "" for line in done)


def _fill(server: BackfillServer, folder: Path, batch_ids: list[str], dice: random.Random) -> int:
    """See that some batches run, and cancel one now and then; how many creates were refused."""
    running = [each for each in batch_ids if server.read_batch(each)["status"] not in _FINAL] if batch_ids else []
    if running and dice.random() < 0.2:
        # It may be about to end by itself, and then it cannot be cancelled.
        with suppress(RuntimeError):
            server.cancel_batch(running.pop())
    refused = 0
    for _ in range(max(1, _UNENDED - len(running))):
        path = folder / "input.jsonl"
        path.write_bytes(_make_input(dice.randint(5, _LINES_MAX), dice))
        try:
            batch_ids.append(server.create_batch(send_multipart(server.url, path)))
        except RuntimeError as error:
            if "answered 429" not in str(error):
                raise
            refused += 1
    return refused


def _make_input(lines: int, dice: random.Random) -> bytes:
    """Requests for several models, no two alike."""
    return b"\n".join(
        json.dumps(
            {
                "custom_id": f"request-{line}",
                "body": {
                    "model": dice.choice(_MODELS),
                    "messages": [{"role": "user", "content": f"marker-{line:06d} " + "x" * dice.randrange(200)}],
                    "max_tokens": dice.randint(1, 500),
                },
            }
        ).encode()
        for line in range(lines)
    )


def _wait_for_any_end(server: BackfillServer, batch_id: str) -> None:
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    while server.read_batch(batch_id)["status"] not in _FINAL:
        if time.monotonic() > deadline_s:
            message = f"the batch {batch_id} has not ended in {_END_TIMEOUT_S} s"
            raise RuntimeError(message)
        time.sleep(_POLL_S)
