"""Several machines: processes that share a database and an object store, and nothing else, are one installation."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest

from backfill.store import read_place
from bench.null.process import NullEngine, Stats
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.gateway import Gateway
from tests.support.holding_proxy import HoldingProxy
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore

# Must be set before the SDK is imported: nobody else is called.
os.environ |= {"TOGETHER_TELEMETRY_DISABLED": "1", "TOGETHER_DISABLE_VERSION_CHECK": "1"}
import together

pytestmark = pytest.mark.scale

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
CONCURRENCY = 8
LINES = 300


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=10) as running:
        yield running


def has_received(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["received"] >= count


def check(client: Client, batch: dict[str, Any], lines: int = LINES) -> None:
    """Every line is in the output, once and in order."""
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{number}" for number in range(lines)]


def count_redone(engine: NullEngine, lines: int = LINES) -> int:
    received = Counter(engine.markers("received"))
    assert len(received) == lines
    return sum(received.values()) - lines


def test_workers_of_two_machines_share_batches_and_each_line_runs_once(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore
) -> None:
    with Machines(tmp_path, engine.url, remote_store) as machines:
        client = machines.client
        batch_ids = [client.create(client.upload(request_lines(100, 100 * number))) for number in range(6)]
        for batch_id in batch_ids:
            batch = client.wait_for_end(batch_id)
            assert batch["status"] == "COMPLETED"
            assert len(client.download(batch["output_file_id"])) == 100
        assert count_redone(engine, 600) == 0
        # Each machine has a name of its own on leases; and no file lies on any of them.
        places = {read_place(server.data_dir) for server in (*machines.apis, *machines.workers)}
        assert len(places) == 4
        assert not list(tmp_path.glob("*/blobs"))
        assert not list(tmp_path.glob("*/backfill.db"))
        # Both workers are seen from either process that answers.
        for api in machines.apis:
            names = {each["name"] for each in Client(api).request("GET", "/v1/engines").json()["data"]}
            assert len(names) == 2


def test_the_sdks_go_their_whole_way_through_two_machines(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore
) -> None:
    path = tmp_path / "requests.jsonl"
    lines = (json.loads(line) | {"method": "POST", "url": CHAT} for line in request_lines(20).splitlines())
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with (
        Machines(tmp_path, engine.url, remote_store, workers=1) as machines,
        Gateway(lambda: [api.url for api in machines.apis if api.is_running]) as balancer,
    ):
        # A connection for each request, so that each goes to the other process than the last one.
        headers = {"connection": "close"}
        with openai.OpenAI(base_url=f"{balancer.url}/openai/v1", api_key="any", default_headers=headers) as client:
            file = client.files.create(file=path, purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            machines.wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
            output_file_id = client.batches.retrieve(batch.id).output_file_id
            assert output_file_id is not None
            assert len(client.files.content(output_file_id).text.splitlines()) == 20
            assert batch.id in {each.id for each in client.batches.list(limit=10)}
        with together.Together(base_url=balancer.url, api_key="any", default_headers=headers) as client:
            sent = client.files.upload(file=str(path), purpose="batch-api", check=False)
            job = client.batches.create(input_file_id=sent.id, endpoint=CHAT).job
            assert job is not None
            assert job.id is not None
            job_id = job.id
            machines.wait_until(lambda: client.batches.retrieve(job_id).status == "COMPLETED")
            output = client.batches.retrieve(job_id).output_file_id
            assert output is not None
            with client.files.with_streaming_response.content(output) as streamed:
                assert len(streamed.read().splitlines()) == 20


def test_a_change_reaches_other_machines_at_once(engine: NullEngine, tmp_path: Path, remote_store: RemoteStore) -> None:
    with Machines(tmp_path, engine.url, remote_store, workers=0, server__api_keys='["sk-first"]') as machines:
        first, second = machines.apis
        ask = {"authorization": "Bearer sk-first"}
        made = httpx.post(f"{first.url}/v1/organization/admin_api_keys", json={"name": "ada"}, headers=ask).json()
        new = {"authorization": f"Bearer {made['value']}"}
        # Without a call it would take ten seconds, since the other one has just read the keys.
        assert httpx.get(f"{second.url}/v1/whoami", headers=ask).status_code == 200

        def is_let_in() -> bool:
            return httpx.get(f"{second.url}/v1/whoami", headers=new).status_code == 200

        machines.wait_until(is_let_in)
        # So does one who has no server at all, on a third machine.
        key_id = made["id"]
        code, _, stderr = backfill(
            "keys",
            "revoke",
            key_id,
            "--data-dir",
            str(tmp_path / "third"),
            folder=tmp_path,
            variables=remote_store.variables,
        )
        assert code == 0, stderr
        machines.wait_until(lambda: not is_let_in())


def test_a_worker_is_killed_and_one_of_another_machine_takes_over(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore
) -> None:
    with Machines(tmp_path, engine.url, remote_store) as machines:
        client = machines.client
        batch_id = client.create(client.upload(request_lines(LINES)))
        engine.wait_for(has_received(LINES // 3), timeout_s=60)
        machines.find_worker(batch_id).kill()
        check(client, client.wait_for_end(batch_id))
        # In flight, and what was answered and not acknowledged by the store yet: one PUT for a second or 256 records.
        assert count_redone(engine) <= CONCURRENCY + 256


@pytest.mark.parametrize("fault", ["blob.written:2", "blob.sealed:3"])
def test_a_process_is_killed_over_an_upload_which_is_sent_to_another_machine(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore, fault: str
) -> None:
    with Machines(tmp_path, engine.url, remote_store, workers=1) as machines:
        doomed, other = machines.apis
        doomed.terminate()
        doomed.start(fault=fault)
        with pytest.raises(httpx.TransportError):
            Client(doomed).upload(request_lines(20))
        assert doomed.wait_for_death() == -signal.SIGKILL
        client = Client(other)
        file_id = client.upload(request_lines(20))
        # What it left has no row, and is not seen.
        assert client.list_ids("files") == [file_id]
        batch_id = client.create(file_id)
        check(client, client.wait_for_end(batch_id), 20)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_is_killed_over_a_create_which_is_sent_to_another_machine(
    engine: NullEngine, tmp_path: Path, remote_store: RemoteStore, when: Literal["before", "after"]
) -> None:
    with Machines(tmp_path, engine.url, remote_store, workers=1) as machines:
        doomed, other = machines.apis
        body = {"endpoint": CHAT, "input_file_id": machines.client.upload(request_lines(20))}
        with ThreadPoolExecutor(1) as thread, HoldingProxy(doomed.url, "/v1/batches", 1, when) as proxy:
            # As the SDKs send it a second time: with the key that the first time had.
            asked: dict[str, Any] = {"json": body, "headers": {"idempotency-key": "one"}, "timeout": 30}
            lost = thread.submit(httpx.post, f"{proxy.url}/v1/batches", **asked)
            assert proxy.held.wait(30)
            doomed.kill()
            answer = httpx.post(f"{other.url}/v1/batches", **asked)
            assert answer.status_code in {200, 201}, answer.text
        assert isinstance(lost.exception(30), httpx.TransportError)
        client = Client(other)
        batch_id = answer.json()["job"]["id"]
        assert client.list_ids("batches") == [batch_id]
        check(client, client.wait_for_end(batch_id), 20)
        assert count_redone(engine, 20) == 0
