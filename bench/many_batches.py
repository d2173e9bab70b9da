"""Many small batches beside one large one with the same lines, and the choice of the next turn among many."""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import create_engine

from backfill.batch import Batch, Counts, State
from backfill.config import LimitsConfig
from backfill.store import Metadata
from backfill.store.schema import batches
from backfill.turns import Turns, now_ms
from bench.exactness import find_violations, read_custom_ids
from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import make_custom_id, make_line, write_input_file
from bench.null.process import NullEngine
from bench.send_file import send_multipart
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import check_results

__all__ = ["measure_many", "measure_next_turn_ms"]

_REPEATS = 2
_LINES = 50_000
_LINES_PER_BATCH = 5
_WAITING = 10_000
_TURNS_TAKEN = 100
_POLL_S = 0.02
_CLIENTS = 16
_DAY_MS = 24 * 3_600_000


def measure_many(setting: Setting, findings: Findings) -> None:
    """Both sides on one server, one after the other; then turns are taken from a database of their own."""
    repeats = setting.count_repeats(_REPEATS)
    lines = setting.scale(_LINES)
    for number in range(repeats):
        tell(f"many batches, run {number + 1} of {repeats}")
        _measure_sides(setting, findings, lines)
    waiting = setting.scale(_WAITING)
    for number in range(repeats):
        next_turn_ms = measure_next_turn_ms(setting.make_folder() / "many.db", waiting)
        findings.add(next_turn_ms=next_turn_ms)
        tell(f"next turn, run {number + 1} of {repeats}: {next_turn_ms:.2f} ms with {waiting} waiting")


def measure_next_turn_ms(path: Path, waiting: int) -> float:
    """The median time in which a turn is chosen and leased while so many batches wait for one."""
    return asyncio.run(_take_turns(path, waiting))


def _measure_sides(setting: Setting, findings: Findings, lines: int) -> None:
    folder = setting.make_folder()
    one_path = write_input_file(folder / "input.jsonl", lines)
    engine = NullEngine()
    with engine, BackfillServer(folder / "data", name_null_engine(engine.url, setting.concurrency)) as server:
        file_id = send_multipart(server.url, one_path)
        small_ids = _upload_small(server, folder / "small.jsonl", lines)
        started_s = time.perf_counter()
        with _Client(server.url) as client:
            batch_id = client.create(file_id)
            client.wait_for_completed(1)
            one_s = time.perf_counter() - started_s
            findings.violations += check_results(server, client.ask(f"/v1/batches/{batch_id}"), lines)
        started_s = time.perf_counter()
        created = _create_all(server.url, small_ids)
        created_s = time.perf_counter() - started_s
        # Anew: the server closes a connection that was idle for some seconds.
        with _Client(server.url) as client:
            client.wait_for_completed(1 + len(created))
            many_s = time.perf_counter() - started_s
            findings.violations += _check_small(server, client, created, lines)
        received = engine.stats()["received"]
    if received != 2 * lines:
        findings.violations.append(f"many batches: the engine received {received} requests for {2 * lines} lines")
    findings.add(many_s=many_s, many_created_s=created_s, one_s=one_s)
    tell(f"  {len(created)} batches {many_s:.2f} s, created in {created_s:.2f} s of it; one batch {one_s:.2f} s")


def _create_all(url: str, file_ids: list[str]) -> list[str]:
    """Create a batch of each file, a few clients at once; the ids in the same order."""
    batch_ids: list[str] = [""] * len(file_ids)

    def create(first: int) -> None:
        with _Client(url) as client:
            for number in range(first, len(file_ids), _CLIENTS):
                batch_ids[number] = client.create(file_ids[number])

    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(create, range(_CLIENTS)))
    return batch_ids


def _upload_small(server: BackfillServer, path: Path, lines: int) -> list[str]:
    """Upload the lines as files of a few lines each, a few clients at once; their ids."""

    def upload(start: int) -> str:
        end = min(start + _LINES_PER_BATCH, lines)
        own_path = path.with_name(f"{start}-{path.name}")
        own_path.write_bytes(b"".join(map(make_line, range(start, end))))
        file_id = send_multipart(server.url, own_path)
        own_path.unlink()
        return file_id

    with ThreadPoolExecutor(_CLIENTS) as clients:
        return list(clients.map(upload, range(0, lines, _LINES_PER_BATCH)))


def _check_small(server: BackfillServer, client: "_Client", created: list[str], lines: int) -> list[str]:
    """What is wrong with the files of all small batches together, in words."""
    ended = [client.ask(f"/v1/batches/{batch_id}") for batch_id in created]
    output = [one for batch in ended for one in read_custom_ids(server.download(batch["output_file_id"]))]
    error = [one for batch in ended for one in read_custom_ids(server.download(batch["error_file_id"]))]
    found = find_violations([make_custom_id(line) for line in range(lines)], output, error)
    return [f"many batches: {one}" for one in found]


class _Client:
    """A client with one connection that it keeps, so that its own share is small; a context manager."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=BATCH_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create(self, file_id: str) -> str:
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return str(self.ask("/v1/batches", body)["job"]["id"])

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode(self._ask(path, body))
        return answer

    def wait_for_completed(self, count: int) -> None:
        """Return once so many batches are COMPLETED; raises RuntimeError if that takes too long."""
        deadline_s = time.monotonic() + BATCH_TIMEOUT_S
        # One row a state is counted in the database: cheaper than asking for any batch.
        wanted = f'backfill_batches{{state="completed"}} {count:.1f}\n'.encode()
        while wanted not in self._ask("/metrics"):
            if time.monotonic() > deadline_s:
                message = f"{count} batches have not ended in {BATCH_TIMEOUT_S} s"
                raise RuntimeError(message)
            time.sleep(_POLL_S)

    def _ask(self, path: str, body: object = None) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        self._connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status not in (200, 201):
            message = f"{path} answered {response.status}: {content.decode(errors='replace')}"
            raise RuntimeError(message)
        return content


async def _take_turns(path: Path, waiting: int) -> float:
    metadata = await Metadata.open(path)
    try:
        await asyncio.to_thread(_write_waiting, path, waiting)
        turns = Turns(metadata, LimitsConfig())
        took_s = []
        for _ in range(min(_TURNS_TAKEN, waiting)):
            started_s = time.perf_counter()
            taken = await turns.take(1)
            took_s.append(time.perf_counter() - started_s)
            await turns.give_back(taken[0], drained=True)
        return 1000 * median(took_s)
    finally:
        await metadata.close()


def _write_waiting(path: Path, waiting: int) -> None:
    """Write the rows of batches that were admitted, all at once."""
    now = now_ms()
    rows = [
        msgspec.structs.asdict(
            Batch(
                id=str(uuid.uuid4()),
                owner="o",
                endpoint="/v1/chat/completions",
                input_file_id=f"file-{number}",
                input_size_bytes=1,
                state=State.IN_PROGRESS,
                created_at_ms=now + number,
                deadline_at_ms=now + number + _DAY_MS,
            )
        )
        | {"counts": msgspec.to_builtins(Counts(total=_LINES_PER_BATCH)), "holder": None, "lease_until_ms": 0}
        for number in range(waiting)
    ]
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(batches.insert(), rows)
    engine.dispose()
