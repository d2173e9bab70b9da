"""One large batch, several workers: whichever dies, stands still or is told to stop, each line is done once."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.crash.test_several_processes import CONCURRENCY, Follower, check, count_redone, has_received
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

LINES = 600
PER_TURN = "50"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=30) as running:
        yield running


def start(data_dir: Path, engine: NullEngine, **settings: Any) -> Company:
    return Company(data_dir, engine.url, dispatch__lines_per_turn=PER_TURN, **settings)


def share(company: Company, engine: NullEngine) -> str:
    """The id of a large batch on which both workers are at work."""
    batch_id = company.client.create(company.client.upload(request_lines(LINES)))
    company.wait_until(lambda: len(company.find_workers(batch_id)) == 2)
    engine.wait_for(has_received(LINES // 6))
    return batch_id


def count_drained(company: Company, batch_id: str) -> int:
    ((drained,),) = company.run("SELECT count(*) FROM slices WHERE batch_id = ? AND drained_as > 0", batch_id)
    return int(drained)


def test_two_workers_share_one_batch_and_each_line_runs_once(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        follower = Follower(company.client, batch_id)
        check(company, company.client.wait_for_end(batch_id), LINES)
        assert count_redone(engine, LINES) == 0
        given = follower.wait()
        assert sorted(given) == sorted(f"request-{n}" for n in range(LINES))
        # Whoever asks again, of whichever process and from wherever, is told the same.
        for after in (0, 1, LINES // 2, LINES):
            found = company.client.request("GET", f"/v1/batches/{batch_id}/results?after={after}").text.splitlines()
            assert [json.loads(line)["custom_id"] for line in found] == given[after:]


def test_results_that_are_asked_for_before_the_batch_is_cut_come_all_the_same(
    engine: NullEngine, tmp_path: Path
) -> None:
    with start(tmp_path / "data", engine, workers=0) as company:
        batch_id = company.client.create(company.client.upload(request_lines(LINES)))
        assert company.client.retrieve(batch_id)["status"] == "VALIDATING"
        settings = {"server__role": "work", "dispatch__lines_per_turn": PER_TURN}
        with (
            company.client.stream(f"/v1/batches/{batch_id}/results?after=10") as response,
            BackfillServer(company.data_dir, engine.url, **settings),
        ):
            told = [json.loads(line)["custom_id"] for line in response.iter_lines()]
        assert company.client.retrieve(batch_id)["status"] == "COMPLETED"
        assert len(set(told)) == len(told) == LINES - 10
        again = company.client.request("GET", f"/v1/batches/{batch_id}/results").text.splitlines()
        assert [json.loads(line)["custom_id"] for line in again][10:] == told


def test_one_of_two_workers_is_killed_and_the_other_does_the_rest(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        follower = Follower(company.client, batch_id)
        company.wait_until(lambda: count_drained(company, batch_id) > 0)
        company.find_workers(batch_id)[0].kill()
        check(company, company.client.wait_for_end(batch_id), LINES)
        assert count_redone(engine, LINES) <= CONCURRENCY
        assert sorted(follower.wait()) == sorted(f"request-{n}" for n in range(LINES))


def test_a_worker_that_ends_in_order_leaves_its_slices_at_once(engine: NullEngine, tmp_path: Path) -> None:
    # Nobody waits for a lease.
    with start(tmp_path / "data", engine, server__lease_s="600") as company:
        batch_id = share(company, engine)
        company.find_workers(batch_id)[0].terminate()
        check(company, company.client.wait_for_end(batch_id), LINES)
        assert count_redone(engine, LINES) == 0


@pytest.mark.slow
def test_a_worker_stands_still_beyond_its_lease_and_comes_back(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        follower = Follower(company.client, batch_id)
        frozen = company.find_workers(batch_id)[0]
        ((name,),) = company.run("SELECT id FROM workers WHERE pid = ?", frozen.pid)
        company.freeze(frozen)
        try:
            held = "SELECT count(*) FROM slices WHERE batch_id = ? AND holder = ?"
            company.wait_until(lambda: company.run(held, batch_id, name) == [(0,)])
        finally:
            company.thaw(frozen)
        check(company, company.client.wait_for_end(batch_id), LINES)
        assert count_redone(engine, LINES) <= 4 * CONCURRENCY
        given = follower.wait()
        assert sorted(given) == sorted(f"request-{n}" for n in range(LINES))
        again = Follower(company.client, batch_id)
        assert again.wait() == given


def test_a_batch_that_two_workers_have_is_paused_and_goes_on(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        company.client.request("POST", f"/v1/batches/{batch_id}/pause").raise_for_status()
        company.wait_until(lambda: not company.find_workers(batch_id))
        sent = engine.stats()["received"]
        assert sent < LINES
        assert company.client.retrieve(batch_id)["status"] != "COMPLETED"
        company.client.request("POST", f"/v1/batches/{batch_id}/resume").raise_for_status()
        check(company, company.client.wait_for_end(batch_id), LINES)
        assert count_redone(engine, LINES) == 0


def test_a_batch_that_two_workers_have_is_cancelled(engine: NullEngine, tmp_path: Path) -> None:
    """What finished is in the output, all else in the error file; and the results tell both, in an order that stays."""
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        company.wait_until(lambda: count_drained(company, batch_id) > 0)
        follower = Follower(company.client, batch_id)
        company.client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        batch = company.client.wait_for_end(batch_id)
        assert batch["status"] == "CANCELLED"
        files = [company.client.download(batch[f"{kind}_file_id"]) for kind in ("output", "error")]
        done, left = [[json.loads(line)["custom_id"] for line in lines] for lines in files]
        assert sorted(done + left) == sorted(f"request-{n}" for n in range(LINES))
        assert done
        assert left
        assert max(Counter(engine.markers("received")).values()) == 1
        given = follower.wait()
        assert set(given[: len(done)]) == set(done)
        assert sorted(given) == sorted(done + left)
        assert Follower(company.client, batch_id).wait() == given


def test_one_of_two_workers_is_killed_and_the_batch_is_cancelled(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        company.find_workers(batch_id)[0].kill()
        company.client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        batch = company.client.wait_for_end(batch_id)
        files = [company.client.download(batch[f"{kind}_file_id"]) for kind in ("output", "error")]
        told = [json.loads(line)["custom_id"] for lines in files for line in lines]
        assert sorted(told) == sorted(f"request-{n}" for n in range(LINES))
        assert sorted(Follower(company.client, batch_id).wait()) == sorted(told)


def test_results_are_read_through_processes_that_are_started_again(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        followers = [Follower(company.client, batch_id) for _ in range(3)]
        company.wait_until(lambda: any(follower.lines for follower in followers))
        company.apis[0].kill()
        company.apis[0].start()
        company.apis[1].terminate()
        company.apis[1].start()
        company.find_workers(batch_id)[0].kill()
        check(company, company.client.wait_for_end(batch_id), LINES)
        given = [follower.wait() for follower in followers]
        assert given[0] == given[1] == given[2]
        assert sorted(given[0]) == sorted(f"request-{n}" for n in range(LINES))
        assert sum(follower.failures for follower in followers) > 0


def test_a_process_that_is_alone_goes_on_with_a_batch_that_was_cut(engine: NullEngine, tmp_path: Path) -> None:
    with start(tmp_path / "data", engine) as company:
        batch_id = share(company, engine)
        for worker in company.workers:
            worker.kill()
    with BackfillServer(tmp_path / "data", engine.url) as alone:
        client = Client(alone)
        batch = client.wait_for_end(batch_id)
        output = [json.loads(line)["custom_id"] for line in client.download(batch["output_file_id"])]
        assert output == [f"request-{n}" for n in range(LINES)]
        assert count_redone(engine, LINES) <= 2 * CONCURRENCY
        told = client.request("GET", f"/v1/batches/{batch_id}/results").text.splitlines()
        assert sorted(json.loads(line)["custom_id"] for line in told) == sorted(output)
