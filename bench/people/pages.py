"""Pages for people: how long the server takes for one, how much that is, and what open ones cost a batch."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import quantiles
from typing import Self
from urllib.parse import urlsplit

from backfill.batch import Batch, Counts, State, Usage, UsageRow
from backfill.store import Metadata
from backfill.turns import now_ms
from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import write_input_file
from bench.null.process import NullEngine
from bench.send_file import send_multipart
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["measure_pages"]

_BATCHES = 10_000
_RUNNING = 10
_LOOKS = 100
_VIEWERS = 20
_REPEATS = 3
_DAY_MS = 24 * 3_600_000
_ASSETS = ("/dashboard/static/style.css", "/dashboard/static/dashboard.js")


def measure_pages(setting: Setting, findings: Findings) -> None:
    """`overview_ms_p95`, `batch_page_ms_p95`, `page_kb`, `page_requests`, `rps_with_20_pages_over_none`."""
    _measure_looks(setting, findings)
    repeats = setting.count_repeats(_REPEATS)
    for number in range(repeats):
        alone_rps = _run_batch(setting, viewers=0)
        watched_rps = _run_batch(setting, viewers=_VIEWERS)
        findings.add(rps_without_pages=alone_rps, rps_with_20_pages=watched_rps)
        findings.add(rps_with_20_pages_over_none=watched_rps / alone_rps)
        tell(f"pages beside a batch, run {number + 1} of {repeats}: {watched_rps / alone_rps:.3f}")


def _measure_looks(setting: Setting, findings: Findings) -> None:
    folder, ended = setting.make_folder(), setting.scale(_BATCHES)
    data_dir = folder / "data"
    engine = NullEngine()
    with engine, BackfillServer(data_dir, name_null_engine(engine.url, setting.concurrency)) as server:
        batch_id = server.create_batch(send_multipart(server.url, setting.input_path))
        server.wait_for_end(batch_id, BATCH_TIMEOUT_S, 0.1)
        server.kill()
        asyncio.run(_write_ended(data_dir / "backfill.db", ended))
        engine.behave(hold=True)
        server.start()
        for _ in range(_RUNNING):
            server.create_batch(send_multipart(server.url, write_input_file(folder / "small.jsonl", 50)))
        time.sleep(2)
        with _Looker(server.url) as looker:
            findings.add(overview_ms_p95=looker.time_p95("/"))
            findings.add(batch_page_ms_p95=looker.time_p95(f"/dashboard/batches/{batch_id}"))
            findings.add(batches_page_ms_p95=looker.time_p95("/dashboard/batches"))
            findings.add(page_kb=looker.count_bytes() / 1000, page_requests=2 + len(_ASSETS))
        engine.behave(hold=False)
    shown = {name: findings.timings[name][-1] for name in ("overview_ms_p95", "batch_page_ms_p95", "page_kb")}
    tell(f"pages with {ended} batches: " + ", ".join(f"{name} {value:.1f}" for name, value in shown.items()))


async def _write_ended(path: Path, count: int) -> None:
    """Rows of batches that have ended, some of them today."""
    metadata = await Metadata.open(path)
    try:
        now = now_ms()
        for number in range(count):
            ended_at_ms = now - number * 60_000
            await metadata.add_batch(
                Batch(
                    id=str(uuid.uuid4()),
                    owner="0" * 24,
                    endpoint="/v1/chat/completions",
                    input_file_id=f"file-{number}",
                    input_size_bytes=1000,
                    state=State.COMPLETED,
                    created_at_ms=ended_at_ms - 60_000,
                    deadline_at_ms=ended_at_ms + _DAY_MS,
                    started_at_ms=ended_at_ms - 50_000,
                    closing_at_ms=ended_at_ms - 1000,
                    ended_at_ms=ended_at_ms,
                    model_id=f"model-{number % 7}",
                    counts=Counts(100, 99, 1, Usage(1000, 1000)),
                    usage=(UsageRow(f"model-{number % 7}", ended_at_ms // 3_600_000, 99, 1, Usage(1000, 1000)),),
                )
            )
    finally:
        await metadata.close()


class _Looker:
    """A browser as far as the wire goes; a context manager."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def time_p95(self, path: str) -> float:
        """Milliseconds from request to whole answer, of which 95 of 100 looks take no longer; after the first look."""
        self.look(path)
        took_ms = []
        for _ in range(_LOOKS):
            started_s = time.perf_counter()
            self.look(path)
            took_ms.append(1000 * (time.perf_counter() - started_s))
        return quantiles(took_ms, n=20)[-1]

    def count_bytes(self) -> int:
        """What the overview takes: page, style sheet, script, and the first event of its stream."""
        size_bytes = sum(len(self.look(path)) for path in ("/", *_ASSETS))
        self._connection.request("GET", "/dashboard/events?page=overview")
        response = self._connection.getresponse()
        event = response.readline()
        self._connection.close()
        return size_bytes + len(event)

    def look(self, path: str) -> bytes:
        """Ask for a page; gives its bytes."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:
            message = f"{path} answered {response.status}"
            raise RuntimeError(message)
        return content


def _run_batch(setting: Setting, *, viewers: int) -> float:
    """Lines a second of a batch while so many pages are open, half of them that batch's own."""
    folder = setting.make_folder()
    engine = NullEngine()
    with engine, BackfillServer(folder / "data", name_null_engine(engine.url, setting.concurrency)) as server:
        file_id = send_multipart(server.url, setting.input_path)
        with _Looker(server.url) as looker:
            # What draws pages is loaded with the first one; these are open already.
            looker.look("/")
        started_s = time.perf_counter()
        batch_id = server.create_batch(file_id)
        with _watching(server.url, batch_id, viewers):
            server.wait_for_end(batch_id, BATCH_TIMEOUT_S, 0.03, 1.0)
        return setting.lines / (time.perf_counter() - started_s)


@contextmanager
def _watching(url: str, batch_id: str, viewers: int) -> Iterator[None]:
    connections = [HTTPConnection(urlsplit(url).netloc, timeout=60) for _ in range(viewers)]
    threads = []
    for number, connection in enumerate(connections):
        query = f"page=batch&batch={batch_id}" if number % 2 else "page=overview"
        threads.append(threading.Thread(target=_follow, args=(connection, query), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for connection in connections:
            if connection.sock is not None:
                connection.sock.shutdown(2)
        for thread in threads:
            thread.join(10)
        for connection in connections:
            connection.close()


def _follow(connection: HTTPConnection, query: str) -> None:
    connection.request("GET", f"/dashboard/events?{query}")
    response = connection.getresponse()
    try:
        while response.read1(1 << 16):
            pass
    except (OSError, HTTPException):
        pass  # the measurement is over
