"""A table through `backfill run --prompt`, beside the very same requests as JSON lines."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from bench.findings import Findings, Setting, tell
from bench.null.process import NullEngine

__all__ = ["measure_tables"]

_ROWS = 1_000_000
_REPEATS = 1
_GROUP_ROWS = 100_000
_PROMPT = "Classify the sentiment of this review, in one word: {text}"


def measure_tables(setting: Setting, findings: Findings) -> None:
    """Rows a second as a table over those as requests, and the most memory that the table took."""
    rows = setting.scale(_ROWS)
    findings.facts["table_rows"] = rows
    folder = setting.make_folder()
    table = folder / "rows.parquet"
    _write_table(table, rows)
    requests = folder / "requests.jsonl"
    model = ("--model", "m")
    _run("make", table, "-o", requests, "--prompt", _PROMPT, *model)
    for number in range(setting.count_repeats(_REPEATS)):
        tell(f"tables, run {number + 1}: {rows:,} rows")
        concurrency = ("--concurrency", str(setting.concurrency))
        with NullEngine() as engine:
            jsonl_s, _ = _run(
                "run", requests, "-o", folder / "out.jsonl", "--engine", engine.url, *concurrency, "--force"
            )
        with NullEngine() as engine:
            options = ("--engine", engine.url, *concurrency, *model, "--force", "--prompt", _PROMPT)
            table_s, peak_mb = _run("run", table, "-o", folder / "out.parquet", *options)
        _check(folder / "out.parquet", rows, findings)
        findings.add(table_rps=rows / table_s, jsonl_rps=rows / jsonl_s, table_peak_mb=peak_mb)
        tell(f"  table {rows / table_s:,.0f} rows/s, {peak_mb:.0f} MB; as JSON lines {rows / jsonl_s:,.0f} requests/s")


def _write_table(path: Path, rows: int) -> None:
    writer = None
    for start in range(0, rows, _GROUP_ROWS):
        numbers = range(start, min(start + _GROUP_ROWS, rows))
        texts = [
            f"Review {number}: it came on day {number % 9}, and I would {'not ' * (number % 2)}buy it."
            for number in numbers
        ]
        batch = pa.table({"id": list(numbers), "text": texts})
        writer = writer or parquet.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def _run(*arguments: object) -> tuple[float, float]:
    """Seconds, and the most memory in MB, of a command."""
    started = time.monotonic()
    command = [sys.executable, "-m", "backfill", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"backfill {arguments[0]} ended with {status}: {errors[-500:]}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def _check(path: Path, rows: int, findings: Findings) -> None:
    written = parquet.read_table(path, columns=["id", "answer", "_error"])
    ids = written.column("id").to_pylist()
    if ids != list(range(rows)) or written.column("answer").null_count or written.column("_error").null_count != rows:
        findings.violations.append("the table came out with rows missing, out of order or without an answer")
