"""No crash of the server comes between the end of a batch and its webhook."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer
from tests.support.webhook_receiver import SECRET, WebhookReceiver

# schema, what is enqueued, free turns, secret, two for the file, batch, admit, take, drain: the next write closes the
# batch.
CLOSING_WRITE = 11


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def make_server(folder: Path, engine: NullEngine, receiver: WebhookReceiver) -> BackfillServer:
    settings = {"webhooks__url": f'"{receiver.url}"', "webhooks__secret": SECRET, "webhooks__backoff_s": "0.05"}
    return BackfillServer(folder, engine.url, **settings)


def make_open_server(folder: Path, engine: NullEngine, receiver: WebhookReceiver | None = None) -> BackfillServer:
    """One whose batches may name the receivers of tests; with a `receiver` it has an address of its own beside."""
    settings = {"webhooks__allow": '["127.0.0.1/32"]', "webhooks__allow_http": "true", "webhooks__backoff_s": "0.05"}
    if receiver is not None:
        settings["webhooks__url"] = f'"{receiver.url}"'
    return BackfillServer(folder, engine.url, webhooks__secret=SECRET, **settings)


def create_telling(client: Client, receiver: WebhookReceiver) -> str:
    """A batch that names the receiver as its own address."""
    members = {"endpoint": "/v1/chat/completions", "input_file_id": client.upload(request_lines(5))}
    made = client.request("POST", "/v1/batches", json=members | {"webhook_url": receiver.url})
    made.raise_for_status()
    return str(made.json()["job"]["id"])


def read_rows(folder: Path) -> list[tuple[str, bool, int]]:
    with closing(sqlite3.connect(folder / "backfill.db")) as database:
        query = "SELECT state, webhook_due_at_ms IS NOT NULL, webhook_tries FROM batches"
        return [(state, bool(due), tries) for state, due, tries in database.execute(query)]


def test_a_server_killed_right_after_the_end_tells_it_after_its_restart(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        server = make_server(tmp_path, engine, receiver).start(fault=f"metadata.committed:{CLOSING_WRITE}")
        client = Client(server)
        batch_id = client.create(client.upload(request_lines(5)))
        assert server.wait_for_death() == -signal.SIGKILL
        assert read_rows(tmp_path) == [("completed", True, 0)], "another write was the one that closes the batch"
        assert receiver.messages == []
        with server:
            (message,) = receiver.wait_for(1)
            assert client.retrieve(batch_id)["status"] == "COMPLETED"
        assert (message.message_id, message.content["type"]) == (f"msg_{batch_id}", "batch.completed")


def test_a_server_killed_while_it_tells_tells_it_again(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver([0, 500]) as receiver:
        server = make_server(tmp_path, engine, receiver)
        with server:
            client = Client(server)
            client.create(client.upload(request_lines(5)))
            receiver.wait_for(1)
            server.kill()
            server.start()
            messages = receiver.wait_for(3)
            # The server notes down what was heard before it answers anything that comes later.
            assert server.terminate() == 0
        assert len({(message.message_id, message.body) for message in messages}) == 1


def test_a_key_makes_one_batch_over_a_kill(engine: NullEngine, tmp_path: Path) -> None:
    """Killed after the row was written and before the client heard of it."""
    with WebhookReceiver() as receiver:
        server = make_server(tmp_path, engine, receiver).start(fault="metadata.committed:7")
        client = Client(server)
        body = {"endpoint": "/v1/chat/completions", "input_file_id": client.upload(request_lines(5))}
        key = {"Idempotency-Key": "k"}
        with pytest.raises(httpx.TransportError):
            client.request("POST", "/v1/batches", json=body, headers=key)
        assert server.wait_for_death() == -signal.SIGKILL
        with server:
            made = client.request("POST", "/v1/batches", json=body, headers=key).json()["job"]["id"]
            assert client.list_ids("batches") == [made]


def test_a_server_killed_right_after_the_end_tells_the_batchs_own_address(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        server = make_open_server(tmp_path, engine).start(fault=f"metadata.committed:{CLOSING_WRITE}")
        batch_id = create_telling(Client(server), receiver)
        assert server.wait_for_death() == -signal.SIGKILL
        assert receiver.messages == []
        with server:
            (message,) = receiver.wait_for(1)
        assert (message.message_id, message.content["type"]) == (f"msg_{batch_id}", "batch.completed")


def test_a_server_killed_while_both_are_told_tells_both_again(engine: NullEngine, tmp_path: Path) -> None:
    with WebhookReceiver([0, 500]) as own, WebhookReceiver([0, 500]) as servers:
        server = make_open_server(tmp_path, engine, servers)
        with server:
            create_telling(Client(server), own)
            for receiver in (own, servers):
                receiver.wait_for(1)
            server.kill()
            server.start()
            messages = [*own.wait_for(3), *servers.wait_for(3)]
            assert server.terminate() == 0
        assert len({(message.message_id, message.body) for message in messages}) == 1
