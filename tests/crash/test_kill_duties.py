"""Judging, webhooks and tidying up by one process at a time: it is killed or ends, and another one does it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer
from tests.support.webhook_receiver import SECRET, WebhookReceiver

DUTIES = {"admission", "webhooks", "retention"}
# So long that no test would see the end of it.
LONG_LEASE_S = "3600"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


def open_company(folder: Path, engine: NullEngine, receiver: WebhookReceiver, lease_s: str) -> Company:
    settings: dict[str, Any] = {
        "webhooks__url": f'"{receiver.url}"',
        "webhooks__secret": SECRET,
        "webhooks__backoff_s": "0.05",
    }
    return Company(folder / "data", engine.url, server__lease_s=lease_s, **settings)


def find_holders(company: Company) -> dict[str, int]:
    """Duty -> the process that has it, of those that told of themselves."""
    query = "SELECT leases.name, workers.pid FROM leases JOIN workers ON workers.id = leases.holder"
    return {name: pid for name, pid in company.run(query) if name in DUTIES}


def wait_for_holders(company: Company, duties: set[str], holder: BackfillServer | None = None) -> dict[str, int]:
    """Who has these duties, once somebody, or this process, has all of them."""

    def is_so() -> bool:
        found = find_holders(company)
        return all(name in found and (holder is None or found[name] == holder.pid) for name in duties)

    company.wait_until(is_so)
    return find_holders(company)


def end_batch(company: Company, receiver: WebhookReceiver, count: int) -> None:
    """Make a batch: it is judged, and its end is told once."""
    batch_id = company.client.create(company.client.upload(request_lines(5)))
    assert company.client.wait_for_end(batch_id)["status"] == "COMPLETED"
    told = [message.content["data"]["id"] for message in receiver.wait_for(count)]
    assert batch_id in told
    assert set(Counter(told).values()) == {1}
    # Of one that is not noted as told, a process that comes after a killed one tells again.
    company.wait_until(lambda: company.run("SELECT id FROM batches WHERE webhook_due_at_ms IS NOT NULL") == [])


def test_what_a_killed_process_did_another_one_does(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    with open_company(tmp_path, engine, receiver, "3") as company:
        holders = wait_for_holders(company, DUTIES)
        end_batch(company, receiver, 1)
        # All began at the same moment: whoever has to judge may not be who has to tell.
        for number, duty in enumerate(("admission", "webhooks"), start=2):
            holders = wait_for_holders(company, {duty})
            killed = next(worker for worker in company.workers if worker.is_running and worker.pid == holders[duty])
            (other,) = (worker for worker in company.workers if worker is not killed)
            killed.kill()
            end_batch(company, receiver, number)
            assert wait_for_holders(company, {duty}, other)
            killed.start()


def test_what_a_process_did_that_ends_properly_another_one_does_at_once(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    with open_company(tmp_path, engine, receiver, LONG_LEASE_S) as company:
        wait_for_holders(company, DUTIES)
        end_batch(company, receiver, 1)
        first, second = company.workers
        assert first.terminate() == 0
        end_batch(company, receiver, 2)
        # What is tidied up is looked at twice a minute: only that nobody who is gone has it.
        assert wait_for_holders(company, {"admission", "webhooks"}, second)
        assert set(find_holders(company).values()) == {second.pid}
        names = {name for (name,) in company.run("SELECT name FROM leases")} & DUTIES
        assert names == {*find_holders(company)}
        first.start()
        assert second.terminate() == 0
        end_batch(company, receiver, 3)
        assert wait_for_holders(company, {"admission", "webhooks"}, first)


def test_what_a_process_did_that_stands_still_another_one_does_and_it_is_not_done_twice(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    with open_company(tmp_path, engine, receiver, "3") as company:
        holders = wait_for_holders(company, DUTIES)
        end_batch(company, receiver, 1)
        frozen = next(worker for worker in company.workers if worker.pid == holders["webhooks"])
        company.freeze_between_writes(frozen)
        try:
            end_batch(company, receiver, 2)
        finally:
            company.thaw(frozen)
        end_batch(company, receiver, 3)
        for worker in company.workers:
            assert worker.terminate() == 0
        assert company.run("SELECT name FROM leases WHERE name IN ('admission', 'webhooks', 'retention')") == []
        assert len(receiver.messages) == 3


def test_no_process_that_only_answers_takes_a_duty(
    engine: NullEngine, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    with open_company(tmp_path, engine, receiver, "3") as company:
        for worker in company.workers:
            worker.terminate()
        batch_id = company.client.create(company.client.upload(request_lines(5)))
        assert company.client.retrieve(batch_id)["status"] == "VALIDATING"
        assert company.run("SELECT name FROM leases WHERE name NOT LIKE 'process %'") == []
        company.workers[0].start()
        assert company.client.wait_for_end(batch_id)["status"] == "COMPLETED"
        receiver.wait_for(1)
