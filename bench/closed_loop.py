"""The driver that Backfill is compared with: a fixed number of workers, each with one request at a time.

Run as `python -m bench.closed_loop ENGINE TARGET`. It starts the same engine process that Backfill would start, or
takes the address of one, and says so in one JSON line. Then it reads JSON lines from stdin, each a run: {"path": an
input file, "concurrency": workers}. Requests go out in the file's order, straight to the engine's HTTP address, through
Backfill's own EngineClient; the bodies are in memory before the clock starts, and answers are counted and dropped.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog
from yarl import URL

from backfill.config import Config, LlamaCppEngineConfig, OpenVinoEngineConfig
from backfill.engines import Answered, EngineClient, Reply
from backfill.engines.llamacpp.replica import LlamaCppReplica
from backfill.engines.openvino.replica import OpenVinoReplica
from backfill.errors import EngineUnavailable
from bench.openvino_naive_host import NaiveOpenVinoReplica
from bench.workloads import Request, read_requests

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # no uvloop on Windows
    from asyncio import new_event_loop

__all__ = ["ENGINES", "LoopRun", "Ready", "Task", "main"]

ENGINES = ("openvino", "openvino-naive", "llamacpp", "address")
_TIMEOUT_S = 600.0
_PATH = "v1/chat/completions"

_Send = Callable[[bytes], Awaitable[Reply]]


class Ready(msgspec.Struct, omit_defaults=True):
    """The driver's first line: the engine's address, or why there is none."""

    address: str = ""
    error: str = ""


class Task(msgspec.Struct):
    """What a run is to be."""

    path: str
    concurrency: int


class LoopRun(msgspec.Struct):
    """What a run came to."""

    lines: int
    seconds: float
    """From the first request to the last answer."""
    completion_tokens: int
    failed: int
    """Requests without an answer."""
    wrong_lengths: int
    """Answers with another number of tokens than was asked for."""

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens a second."""
        return self.completion_tokens / self.seconds

    @property
    def lines_per_s(self) -> float:
        """Lines a second."""
        return self.lines / self.seconds


@asynccontextmanager
async def _open_engine(
    kind: str, concurrency: int, client: EngineClient
) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """The address of an engine that is up, and the headers it wants; ended afterwards."""
    with tempfile.TemporaryDirectory() as log_dir:
        places = {"models_dir": Config().models_dir, "log_dir": Path(log_dir)}
        replica: OpenVinoReplica | LlamaCppReplica
        if kind == "llamacpp":
            replica = LlamaCppReplica(kind, LlamaCppEngineConfig(slots=concurrency), client, **places)
        else:
            make = NaiveOpenVinoReplica if kind == "openvino-naive" else OpenVinoReplica
            replica = make(kind, OpenVinoEngineConfig(concurrency=concurrency), client, **places)
        try:
            await replica.start()
            yield replica.address or "", {"Authorization": f"Bearer {replica.key}"}
        finally:
            await replica.stop()


async def _run(send: _Send, requests: list[Request], concurrency: int) -> LoopRun:
    counts: list[int] = []
    bodies = [(bytes(one.body), one.max_tokens) for one in requests]
    # One iterator for all: whoever is free takes the next request.
    shared = iter(bodies)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(_work(send, shared, counts)) for _ in range(concurrency)]
    seconds = time.perf_counter() - started
    wrong = sum(worker.result() for worker in workers)
    return LoopRun(len(bodies), seconds, sum(counts), len(bodies) - len(counts), wrong)


async def _work(send: _Send, requests: Iterator[tuple[bytes, int]], counts: list[int]) -> int:
    """Send until none are left, noting the tokens of each answer; how many were not as long as they should be."""
    wrong = 0
    for body, max_tokens in requests:
        reply = await send(body)
        if isinstance(reply, Answered):
            counts.append(reply.usage.completion_tokens)
            wrong += reply.usage.completion_tokens != max_tokens
    return wrong


async def _obey(client: EngineClient, address: str, headers: Mapping[str, str]) -> None:
    """Carry out what stdin says until it ends."""
    url = URL(address) / _PATH

    def send(body: bytes) -> Awaitable[Reply]:
        return client.send(url, url.path, headers, body)

    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        task = msgspec.json.decode(line, type=Task)
        _tell(await _run(send, read_requests(Path(task.path)), task.concurrency))


def _tell(answer: Ready | LoopRun) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)


async def _drive(kind: str, target: str) -> None:
    async with EngineClient(_TIMEOUT_S) as client:
        if kind == "address":
            _tell(Ready(address=target))
            await _obey(client, target, {})
            return
        try:
            async with _open_engine(kind, int(target), client) as (address, headers):
                _tell(Ready(address=address))
                await _obey(client, address, headers)
        except EngineUnavailable as error:
            _tell(Ready(error=error.message))


def main() -> None:
    """Serve runs until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.closed_loop", description="A closed loop of workers.")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("target", help="requests that the engine computes at once; for `address`: its base URL")
    options = parser.parse_args()
    # stdout is for the answers.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_drive(options.engine, options.target))


if __name__ == "__main__":
    main()
