"""The null engine does what its page says: everything else is measured and proved against it."""

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: NullEngine) -> NullEngine:
    shared_engine.behave(delay_ms=0, places=0, faults={}, fault_all=None, hold=False, echo=False)
    return shared_engine


@pytest.fixture
def client(engine: NullEngine) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", engine.port, timeout=10)
    yield connection
    connection.close()


def make_body(marker: str) -> bytes:
    content = f"marker-{marker} what is a batch?"
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()


def ask(client: HTTPConnection, marker: str, path: str = CHAT) -> tuple[HTTPResponse, bytes]:
    client.request("POST", path, make_body(marker), {"Content-Type": "application/json"})
    response = client.getresponse()
    return response, response.read()


def write_request(marker: str) -> bytes:
    body = make_body(marker)
    return f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nCONTENT-LENGTH: {len(body)}\r\n\r\n".encode() + body


def read_responses(connection: socket.socket, count: int) -> list[dict[str, Any]]:
    data = b""
    bodies: list[dict[str, Any]] = []
    while len(bodies) < count:
        piece = connection.recv(65536)
        assert piece, "the engine closed the connection"
        data += piece
        while b"\r\n\r\n" in data:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if len(rest) < length:
                break
            bodies.append(json.loads(rest[:length]))
            data = rest[length:]
    return bodies


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
def test_answers_are_plausible(client: HTTPConnection, path: str) -> None:
    response, body = ask(client, "000001", path)
    answer = json.loads(body)
    assert response.status == 200
    assert response.getheader("Content-Type") == "application/json"
    assert answer["model"] == "null-model"
    assert answer["id"]
    assert answer["usage"]["total_tokens"] >= answer["usage"]["prompt_tokens"] > 0
    assert 400 <= len(body) <= 1000
    assert b"%" not in body


def test_many_requests_share_a_connection(client: HTTPConnection) -> None:
    ask(client, "first")
    kept = client.sock
    for _ in range(5):
        assert ask(client, "again")[0].status == 200
    assert client.sock is kept


def test_connection_close_is_obeyed(client: HTTPConnection) -> None:
    client.request("GET", "/health", headers={"Connection": "close"})
    assert client.getresponse().read() == b'{"status":"ok"}'
    assert client.sock is None or client.sock.recv(1) == b""


def test_a_request_may_come_in_pieces(engine: NullEngine) -> None:
    request = write_request("pieces")
    with socket.create_connection(("127.0.0.1", engine.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), 7):
            connection.sendall(request[at : at + 7])
        (answer,) = read_responses(connection, 1)
    assert answer["object"] == "chat.completion"
    assert engine.markers()[-1] == "pieces"


@pytest.mark.parametrize("delay_ms", [0, 1])
def test_requests_sent_ahead_are_answered_in_order(engine: NullEngine, delay_ms: int) -> None:
    engine.behave(echo=True, delay_ms=delay_ms)
    with socket.create_connection(("127.0.0.1", engine.port), timeout=10) as connection:
        connection.sendall(b"".join(write_request(f"ahead-{number}") for number in range(5)))
        answers = read_responses(connection, 5)
    said = [answer["choices"][0]["message"]["content"].split()[0] for answer in answers]
    assert said == [f"marker-ahead-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (f"POST {CHAT} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), b"411"),
        (f"POST {CHAT} HTTP/1.1\r\nContent-Length: many\r\n\r\n".encode(), b"400"),
        (b"hello\r\n\r\n", b"400"),
        (b"x" * 70_000, b"431"),
    ],
)
def test_what_cannot_be_read_is_refused_and_closed(engine: NullEngine, request_bytes: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", engine.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_unknown_places_are_not_found(client: HTTPConnection) -> None:
    client.request("GET", "/nowhere")
    assert client.getresponse().status == 404


def test_models_are_listed(client: HTTPConnection) -> None:
    client.request("GET", "/v1/models")
    assert json.load(client.getresponse())["data"][0]["id"] == "null-model"


@pytest.mark.parametrize("status", ["400", "404", "500", "503", "429"])
def test_a_status_comes_with_an_error_object(engine: NullEngine, client: HTTPConnection, status: str) -> None:
    engine.behave(faults={"bad": [status]})
    response, body = ask(client, "bad")
    assert response.status == int(status)
    assert response.getheader("Retry-After") is None
    assert set(json.loads(body)["error"]) >= {"message", "type", "code"}


def test_429_can_carry_retry_after(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"busy": ["429:0.2"]})
    response, _ = ask(client, "busy")
    assert (response.status, response.getheader("Retry-After")) == (429, "0.2")


def test_close_ends_the_connection_without_an_answer(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"closed": ["close"]})
    with pytest.raises((RemoteDisconnected, ConnectionResetError)):
        ask(client, "closed")
    engine.wait_for(lambda stats: stats["in_flight"] == 0)
    assert engine.log()[-1][:2] == ("dropped", "closed")


def test_garbage_is_a_200_and_no_json(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"junk": ["garbage"]})
    response, body = ask(client, "junk")
    assert response.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_pretty_is_the_same_answer_over_many_lines(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"pretty": ["pretty"]})
    _, pretty = ask(client, "pretty")
    _, plain = ask(client, "pretty")
    assert pretty.count(b"\n") > 10
    assert json.loads(pretty) == json.loads(plain)


def test_hang_lasts_until_the_client_goes(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"hung": ["hang"]})
    client.request("POST", CHAT, make_body("hung"))
    engine.wait_for(lambda stats: stats["in_flight"] == 1)
    client.close()
    engine.wait_for(lambda stats: stats["in_flight"] == 0)
    assert engine.log()[-1][:2] == ("dropped", "hung")


def test_a_script_is_used_up_one_fault_a_try(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(faults={"000003": ["500", "429:1", "ok", "400"]})
    assert [ask(client, "000003")[0].status for _ in range(5)] == [500, 429, 200, 400, 200]
    assert ask(client, "000004")[0].status == 200


def test_fault_all_leaves_scripts_alone(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(fault_all="503", faults={"one": ["400"]})
    assert ask(client, "one")[0].status == 503
    engine.behave(fault_all=None)
    assert ask(client, "one")[0].status == 400


def test_held_requests_are_answered_on_release(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(hold=True, faults={"held": ["503"]})
    before = engine.stats()["answered"]
    client.request("POST", CHAT, make_body("held"))
    stats = engine.wait_for(lambda stats: stats["in_flight"] == 1)
    assert stats["answered"] == before
    engine.behave(hold=False)
    assert client.getresponse().status == 503


def test_what_is_held_may_be_given_up(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(hold=True)
    client.request("POST", CHAT, make_body("given-up"))
    engine.wait_for(lambda stats: stats["in_flight"] == 1)
    client.close()
    engine.wait_for(lambda stats: stats["in_flight"] == 0)
    engine.behave(hold=False)
    assert ask(client, "after")[0].status == 200


def test_a_delay_keeps_requests_in_flight(engine: NullEngine, client: HTTPConnection) -> None:
    engine.behave(delay_ms=30)
    ask(client, "slow")
    (_, _, received_ns), (_, _, answered_ns) = [entry for entry in engine.log() if entry[1] == "slow"]
    assert answered_ns - received_ns >= 29_000_000


def test_what_has_no_place_waits_for_one_in_the_order_it_came(engine: NullEngine) -> None:
    engine.behave(places=2, faults={"place-1": ["hang"], "place-2": ["hang"]})
    received = engine.stats()["received"]
    sockets: list[socket.socket] = []
    for number in range(1, 6):
        sockets.append(socket.create_connection(("127.0.0.1", engine.port), timeout=10))
        sockets[-1].sendall(write_request(f"place-{number}"))
        engine.wait_for(lambda stats: stats["received"] - received >= len(sockets))
    assert [marker for marker in engine.markers("answered") if marker.startswith("place-")] == []
    # One whose client goes while it waits takes no place; one that goes while it is served gives its own back.
    sockets[3].close()
    engine.wait_for(lambda stats: stats["in_flight"] == 4)
    sockets[0].close()
    read_responses(sockets[2], 1)
    read_responses(sockets[4], 1)
    answered = [marker for marker in engine.markers("answered") if marker.startswith("place-")]
    assert answered == ["place-3", "place-5"]
    sockets[1].close()
    engine.wait_for(lambda stats: stats["in_flight"] == 0)
    for connection in (sockets[2], sockets[4]):
        connection.close()


def test_more_places_let_those_in_that_wait(engine: NullEngine) -> None:
    engine.behave(places=1, faults={"kept": ["hang"]})
    with (
        socket.create_connection(("127.0.0.1", engine.port), timeout=10) as kept,
        socket.create_connection(("127.0.0.1", engine.port), timeout=10) as waiting,
    ):
        kept.sendall(write_request("kept"))
        engine.wait_for(lambda stats: stats["in_flight"] == 1)
        waiting.sendall(write_request("waiting"))
        engine.wait_for(lambda stats: stats["in_flight"] == 2)
        engine.behave(places=0)
        read_responses(waiting, 1)
    engine.wait_for(lambda stats: stats["in_flight"] == 0)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
def test_echo_puts_the_marker_into_the_answer(engine: NullEngine, client: HTTPConnection, path: str) -> None:
    engine.behave(echo=True)
    assert b"marker-000042" in ask(client, "000042", path)[1]


@pytest.mark.parametrize("changes", [{"faults": {"1": ["explode"]}}, {"fault_all": "no"}, {"mood": "bad"}])
def test_unknown_behaviour_is_refused_and_changes_nothing(
    engine: NullEngine, client: HTTPConnection, changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"unknown fault|a behaviour is"):
        engine.behave(**{"echo": True, **changes})
    assert b"marker-" not in ask(client, "000001")[1]


def test_the_log_has_every_event_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with NullEngine(log_path=path, faults={"2": ["500"], "3": ["close"]}) as engine:
        client = HTTPConnection("127.0.0.1", engine.port, timeout=10)
        ask(client, "1")
        ask(client, "2")
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            ask(client, "3")
        client.close()
        stats = engine.wait_for(lambda stats: stats["dropped"] == 1)
        log = engine.log()
        engine.kill()
    expected = [("received", "1"), ("answered", "1"), ("received", "2"), ("answered", "2")]
    assert [entry[:2] for entry in log] == [*expected, ("received", "3"), ("dropped", "3")]
    assert [entry[2] for entry in log] == sorted(entry[2] for entry in log)
    assert [tuple(json.loads(line)) for line in path.read_text().splitlines()] == log
    assert (stats["received"], stats["answered"], stats["peak_in_flight"]) == (3, 2, 1)
    assert stats["first_received_at"] is not None
    assert stats["last_answered_at"] is not None
    assert stats["first_received_at"] <= stats["last_answered_at"]


def test_a_killed_engine_comes_back_at_its_address() -> None:
    with NullEngine() as engine:
        url = engine.url
        engine.kill()
        with pytest.raises(urllib.error.URLError):
            engine.stats()
        with NullEngine(port=int(url.rpartition(":")[2])) as again:
            assert again.url == url
            assert again.stats()["received"] == 0


def test_the_engine_ends_with_sigterm_and_with_its_parent() -> None:
    for end in (lambda child: os.kill(child.pid, signal.SIGTERM), lambda child: child.stdin.close()):
        with NullEngine() as engine:
            child = engine._running()
            end(child)
            assert child.wait(timeout=10) == 0


async def test_waiting_leaves_the_event_loop_free() -> None:
    with NullEngine(hold=True) as engine:
        task = asyncio.create_task(asyncio.to_thread(urllib.request.urlopen, engine.url + CHAT, make_body("1"), 10))
        stats = await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        assert stats["received"] == 1
        engine.behave(hold=False)
        with await task as response:
            assert response.status == 200


def test_waiting_in_vain_ends(engine: NullEngine) -> None:
    with pytest.raises(TimeoutError, match="did not come to that"):
        engine.wait_for(lambda stats: stats["received"] < 0, timeout_s=0.02)
