"""A newer release beside this one: real processes of both, under way, on each kind of store."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backfill.store import find_newest
from bench.null.process import NullEngine, Stats
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.machines import Machines, RemoteStore
from tests.support.release import make_contracting, make_expanding
from tests.support.server_process import BackfillServer

pytestmark = pytest.mark.scale
CONCURRENCY = 8
LINES = 400
# More than a worker takes at once, however fast it was so far.
MANY_LINES = 2_800
NOW = find_newest()
NEXT, NEXT_BUT_ONE = (f"{int(NOW) + more:04}" for more in (1, 2))
BY_NEW, BY_OLD = f"taken_by_{NEXT} = '{NEXT}'", f"taken_by_{NEXT} IS NULL AND epoch > 0"
SETTINGS = {"dispatch__lines_per_turn": "20"}
HELD = "SELECT name FROM leases WHERE lease_until_ms >= extract(epoch FROM clock_timestamp()) * 1000"
Assemble = Callable[..., Company]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=40) as running:
        yield running


@pytest.fixture(params=["one data directory", "several machines"])
def assemble(request: pytest.FixtureRequest, engine: NullEngine, tmp_path: Path) -> Assemble:
    """Processes of this release."""

    def start(**more: Any) -> Company:
        if request.param == "one data directory":
            return Company(tmp_path / "data", engine.url, **(SETTINGS | more))
        store: RemoteStore = request.getfixturevalue("remote_store")
        return Machines(tmp_path / "machines", engine.url, store, **(SETTINGS | more))

    return start


def has_received(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats["received"] >= count


def check(client: Client, batch_id: str, first: int = 0, lines: int = LINES) -> None:
    """The batch ends, and every line is in the output, once and in order."""
    batch = client.wait_for_end(batch_id)
    assert batch["status"] == "COMPLETED", batch
    assert batch["error_file_id"] is None
    output = client.download(batch["output_file_id"])
    assert [json.loads(line)["custom_id"] for line in output] == [f"request-{first + n}" for n in range(lines)]


def submit(client: Client, first: int = 0, lines: int = LINES) -> str:
    return client.create(client.upload(request_lines(lines, first)))


def read_revision(company: Company) -> str:
    ((found,),) = company.run("SELECT version_num FROM alembic_version")
    return str(found)


def wait_until_taken(company: Company, batch_id: str, by: str) -> None:
    """A slice of the batch was."""
    company.wait_until(lambda: company.run(f"SELECT number FROM slices WHERE batch_id = ? AND {by}", batch_id))


def expect_refusal(server: BackfillServer, *words: str) -> None:
    """It does not start, and says why in one sentence and no stack trace."""
    server.start(expect_ready=False)
    assert server.wait_for_death() == 2
    said = " ".join([*server.log, server.said])
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said


def count_indexes(company: Company) -> int:
    """Those that are made beside others, once they are valid."""
    if isinstance(company, Machines):
        query = (
            "SELECT count(*) FROM pg_class JOIN pg_index ON indexrelid = oid "
            "WHERE indisvalid AND relnamespace = current_schema()::regnamespace AND relname = ?"
        )
    else:
        query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    ((count,),) = company.run(query, f"batches_by_note_{NEXT}")
    return int(count)


def test_old_and_new_work_side_by_side_until_the_last_old_one_is_gone(
    assemble: Assemble, engine: NullEngine, tmp_path: Path
) -> None:
    source = make_expanding(tmp_path / "next", NEXT).source
    with assemble() as company:
        client = company.client
        first = submit(client)
        engine.wait_for(has_received(LINES // 8))
        # Several new ones at once: one of them changes the schema, under those that work.
        new = [company.make_server(f"new-{role}", role, source) for role in ("api", "work")]
        with ThreadPoolExecutor() as threads:
            new_api, new_worker = threads.map(BackfillServer.start, new)
        try:
            assert read_revision(company) == NEXT
            new_client = Client(new_api)
            # Made through either, and worked on by both, by the old ones as they always did.
            second, third = submit(client, LINES), submit(new_client, 2 * LINES)
            for batch_id in (second, third):
                wait_until_taken(company, batch_id, BY_NEW)
                wait_until_taken(company, batch_id, BY_OLD)
            assert client.retrieve(third)["id"] == third
            company.wait_until(lambda: count_indexes(company) == 1)
            for old in (*company.workers, *company.apis):
                assert old.terminate() == 0
            for batch_id, line in ((first, 0), (second, LINES), (third, 2 * LINES)):
                check(new_client, batch_id, line)
            # Back by one step: an old one beside the new ones, then without them.
            old_api, old_worker = company.apis[0].start(), company.workers[0].start()
            assert any("one step ahead" in line for line in read_log(old_worker))
            fourth = submit(Client(old_api), 3 * LINES, MANY_LINES)
            wait_until_taken(company, fourth, BY_OLD)
            assert [new_worker.terminate(), new_api.terminate()] == [0, 0]
            check(Client(old_api), fourth, 3 * LINES, MANY_LINES)
            assert read_revision(company) == NEXT
        finally:
            for server in new:
                server.terminate()
        received = Counter(engine.markers("received"))
        assert len(received) == 3 * LINES + MANY_LINES
        # What was with the engine of each of those that were stopped, at most.
        assert sum(received.values()) - len(received) <= 4 * CONCURRENCY


def read_log(server: BackfillServer) -> list[str]:
    Company.wait_until(lambda: server.log)
    return server.log


@pytest.mark.parametrize("point", ["metadata.before_commit", "metadata.committed"])
def test_a_new_one_is_killed_over_the_change_of_the_schema(
    assemble: Assemble, engine: NullEngine, tmp_path: Path, point: str
) -> None:
    source = make_expanding(tmp_path / "next", NEXT).source
    with assemble() as company:
        first = submit(company.client)
        engine.wait_for(has_received(LINES // 8))
        new = company.make_server("new", "work", source)
        new.start(fault=f"{point}:1", expect_ready=False)
        assert new.wait_for_death() == -9
        # Either schema, and whole: columns and the table come and go with the revision.
        is_changed = point == "metadata.committed"
        assert read_revision(company) == (NEXT if is_changed else NOW)
        for table, column in (("slices", f"taken_by_{NEXT}"), ("batches", f"noted_{NEXT}"), (f"notes_{NEXT}", "id")):
            assert has_column(company, table, column) == is_changed
        second = submit(company.client, LINES)
        check(company.client, first)
        check(company.client, second, LINES)
        with company.make_server("new", "work", source):
            # Or these may have all of it before the new one looks.
            for old in company.workers:
                assert old.terminate() == 0
            third = submit(company.client, 2 * LINES)
            wait_until_taken(company, third, BY_NEW)
            check(company.client, third, 2 * LINES)
            company.wait_until(lambda: count_indexes(company) == 1)
        assert read_revision(company) == NEXT


def has_column(company: Company, table: str, column: str) -> bool:
    if isinstance(company, Machines):
        query = (
            "SELECT 1 FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND table_name = ? AND column_name = ?"
        )
        return bool(company.run(query, table, column))
    return bool(company.run("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, column))


def test_a_step_that_old_ones_do_not_bear_waits_until_they_are_gone(
    assemble: Assemble, engine: NullEngine, tmp_path: Path
) -> None:
    source = make_contracting(tmp_path / "next", NEXT).source
    with assemble() as company:
        first = submit(company.client)
        engine.wait_for(has_received(LINES // 8))
        new = company.make_server("new", "work", source)
        expect_refusal(
            new, f"schema {NOW}", f"has {NEXT}", "older versions cannot work on that one", "Stop all of them"
        )
        assert read_revision(company) == NOW
        check(company.client, first)
        second = submit(company.client, LINES)
        for old in (*company.apis, *company.workers):
            assert old.terminate() == 0
        with company.make_server("new", "work", source), company.make_server("new-api", "api", source) as new_api:
            assert read_revision(company) == NEXT
            check(Client(new_api), second, LINES)
            expect_refusal(company.workers[0], f"its schema is {NEXT}", f"up to {NOW}", "Start a newer version")


def test_one_step_at_a_time(assemble: Assemble, engine: NullEngine, tmp_path: Path) -> None:
    source = make_expanding(tmp_path / "next", NEXT).source
    source_but_one = make_expanding(tmp_path / "next-but-one", NEXT, NEXT_BUT_ONE).source
    with assemble(apis=1, workers=1) as company:
        latest = company.make_server("latest", "work", source_but_one)
        expect_refusal(latest, f"schema {NOW}", f"has {NEXT_BUT_ONE}", "that is 2 steps")
        with company.make_server("new", "work", source), company.make_server("new-api", "api", source) as new_api:
            expect_refusal(latest, f"schema {NEXT}", f"some of them know only schemas before {NEXT}")
            assert read_revision(company) == NEXT
            for old in (*company.apis, *company.workers):
                assert old.terminate() == 0
            batch_id = submit(Client(new_api))
            engine.wait_for(has_received(LINES // 8))
            with company.make_server("latest", "work", source_but_one):
                assert read_revision(company) == NEXT_BUT_ONE
                check(Client(new_api), batch_id)
                expect_refusal(
                    company.workers[0], f"its schema is {NEXT_BUT_ONE}", f"that know {NEXT} at least", f"up to {NOW}"
                )


def test_one_that_stood_still_while_the_schema_was_changed_ends(
    engine: NullEngine, remote_store: RemoteStore, tmp_path: Path
) -> None:
    source = make_contracting(tmp_path / "next", NEXT).source
    with Machines(tmp_path / "machines", engine.url, remote_store, apis=0, workers=1) as machines:
        (old,) = machines.workers
        machines.freeze(old)
        try:
            machines.wait_until(lambda: not machines.run(HELD))
            with machines.make_server("new", "work", source):
                assert read_revision(machines) == NEXT
                machines.thaw(old)
                assert old.wait_for_death() == 2
        finally:
            if old.is_running:
                machines.thaw(old)
        assert f"its schema is {NEXT}" in "".join(old.log)
