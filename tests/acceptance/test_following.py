"""Results before the end from a real `backfill serve`, which may stop, be killed and come back meanwhile."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import CommandLine, backfill
from tests.support.client import Client
from tests.support.lines import marker_of, request_lines
from tests.support.server_process import BackfillServer

LINES = 40
HALF = LINES // 2


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    """Answers the first half, and nothing else before it is told to."""
    with NullEngine(faults={marker_of(number): ["hang"] for number in range(HALF, LINES)}) as running:
        yield running


@pytest.fixture
def server(engine: NullEngine, tmp_path: Path) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path / "data", engine.url, dispatch__cancel_grace_s="0.1") as running:
        yield running


def read_until_cut(server: BackfillServer, batch_id: str, after: int, most: int = LINES) -> tuple[list[str], bool]:
    """Whole lines, and whether the stream ended as it should."""
    lines: list[str] = []
    try:
        with httpx.stream("GET", f"{server.url}/v1/batches/{batch_id}/results?after={after}", timeout=30) as response:
            assert response.headers["content-type"] == "application/jsonl"
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == most:
                    return lines, False
    except httpx.TransportError:
        return lines, False
    return lines, True


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_each_line_comes_once_over_a_restart(engine: NullEngine, server: BackfillServer, end: str) -> None:
    client = Client(server)
    batch_id = client.create(client.upload(request_lines(LINES)))
    lines, _ = read_until_cut(server, batch_id, after=0, most=HALF - 3)
    getattr(server, end)()
    server.start()
    more, _ = read_until_cut(server, batch_id, after=len(lines), most=3)
    lines += more
    assert {json.loads(line)["custom_id"] for line in lines} == {f"request-{n}" for n in range(HALF)}
    engine.behave(faults={})
    getattr(server, end)()
    server.start()
    more, complete = read_until_cut(server, batch_id, after=len(lines))
    assert complete
    lines += more
    output = client.download(client.retrieve(batch_id)["output_file_id"])
    assert sorted(lines) == sorted(line.decode() for line in output)
    assert read_until_cut(server, batch_id, after=0) == (lines[:LINES], False)


def test_a_server_that_stops_cuts_the_stream_and_does_not_wait(server: BackfillServer) -> None:
    client = Client(server)
    batch_id = client.create(client.upload(request_lines(LINES)))
    with httpx.stream("GET", f"{server.url}/v1/batches/{batch_id}/results", timeout=30) as response:
        lines = response.iter_lines()
        for _ in range(HALF):
            next(lines)
        assert server.terminate() == 0
        with pytest.raises(httpx.RemoteProtocolError):
            next(lines)
    assert [entry for entry in server.log if "ASGI" in entry or "Traceback" in entry or "timeout" in entry] == []


def test_watch_prints_results_as_they_come(engine: NullEngine, server: BackfillServer, tmp_path: Path) -> None:
    client = Client(server)
    batch_id = client.create(client.upload(request_lines(LINES)))
    with CommandLine("watch", "--follow", batch_id, "--url", server.url, folder=tmp_path) as watching:
        watching.wait_for(lambda it: len(it.events) == HALF)
        assert {event["custom_id"] for event in watching.events} == {f"request-{n}" for n in range(HALF)}
        client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        assert watching.wait() == 1
    assert [event["custom_id"] for event in watching.events[HALF:]] == [f"request-{n}" for n in range(HALF, LINES)]
    assert f"CANCELLED: {HALF} answered, {HALF} failed" in watching.err

    variables = {"BACKFILL_URL": server.url}
    code, out, _ = backfill("watch", batch_id, "--follow", "--json", folder=tmp_path, variables=variables)
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [event["event"] for event in events] == ["result"] * LINES + ["finished"]
