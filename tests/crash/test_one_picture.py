"""Whichever process is asked, it shows the engines of all workers: those that live, and those that were killed."""

import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

# A silent worker is shown as down after half of it.
LEASE_S = "4"
HOUR_MS = 3_600_000


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def name(worker: BackfillServer) -> str:
    return f"null@{socket.gethostname()}:{worker.pid}"


class Picture:
    """What one process that answers HTTP shows of engines, in each place where it shows them."""

    def __init__(self, api: BackfillServer, folder: Path) -> None:
        self._client = Client(api)
        self._api = api
        self._folder = folder

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        listed = self._client.request("GET", "/v1/engines").json()["data"]
        engines = {engine["name"]: engine for engine in listed}
        assert len(engines) == len(listed)
        return engines

    @property
    def states(self) -> dict[str, str]:
        return {name: engine["state"] for name, engine in self.engines.items()}

    @property
    def scraped_states(self) -> dict[str, str]:
        families = text_string_to_metric_families(self._client.request("GET", "/metrics").text)
        family = next(family for family in families if family.name == "backfill_replica_state")
        found = [sample.labels for sample in family.samples if sample.value == 1]
        return {labels["replica"]: labels["state"] for labels in found}

    @property
    def models(self) -> list[str]:
        return [model["id"] for model in self._client.request("GET", "/openai/v1/models").json()["data"]]

    @property
    def told_states(self) -> dict[str, str]:
        code, out, err = backfill("status", "--url", self._api.url, "--json", folder=self._folder)
        assert code == 0, err
        return {engine["name"]: engine["state"] for engine in json.loads(out)["engines"]}

    @property
    def told(self) -> str:
        wide = {"COLUMNS": "400"}
        code, out, err = backfill("status", "--url", self._api.url, folder=self._folder, variables=wide)
        assert code == 0, err
        return out

    @property
    def lost(self) -> set[str]:
        engines = self.engines.values()
        # One that had no work so far is down too, but nothing is wrong with it.
        return {each["name"] for each in engines if each["state"] == "down" and "is lost" in (each["trouble"] or "")}

    def shows(self, names: set[str], lost: set[str]) -> bool:
        """Whether it shows these engines, and no others, and the same in every place."""
        states = self.states
        return ({*states}, self.lost) == (names, lost) and states == self.scraped_states == self.told_states


def wait_for(pictures: list[Picture], holds: Callable[[Picture], object]) -> None:
    """Return once that is so of each."""
    for picture in pictures:
        Company.wait_until(partial(holds, picture))


def wait_for_workers(pictures: list[Picture], *living: BackfillServer, lost: str = "") -> None:
    gone = {lost} if lost else set()
    names = {name(each) for each in living} | gone
    wait_for(pictures, lambda picture: picture.shows(names, gone))


def test_every_process_shows_the_engines_of_all_workers(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url, server__lease_s=LEASE_S) as company:
        pictures = [Picture(api, tmp_path) for api in company.apis]
        first, second = company.workers
        wait_for_workers(pictures, first, second)
        batch_id = company.client.create(company.client.upload(request_lines(20)))
        assert company.client.wait_for_end(batch_id)["status"] == "COMPLETED"
        wait_for(pictures, lambda picture: sum(each["answered"] for each in picture.engines.values()) == 20)
        for picture in pictures:
            assert picture.models
            assert "up" in picture.states.values()
            told = picture.told
            assert name(first) in told
            assert name(second) in told
        wait_for_workers(pictures, first, second)


def test_a_killed_worker_is_shown_as_down_then_forgotten_and_a_new_one_appears(
    engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(delay_ms=100)
    with Company(tmp_path / "data", engine.url, server__lease_s=LEASE_S) as company:
        pictures = [Picture(api, tmp_path) for api in company.apis]
        batch_id = company.client.create(company.client.upload(request_lines(2000)))
        engine.wait_for(lambda stats: stats["received"] > 0, timeout_s=30)
        killed = company.find_worker(batch_id)
        company.wait_until(lambda: batch_id in company.find_told(killed)["batches"])
        lost = name(killed)
        other = next(worker for worker in company.workers if worker is not killed)
        killed.kill()
        engine.behave(delay_ms=0)
        batch = company.client.wait_for_end(batch_id)
        assert batch["request_counts"]["completed"] == 2000
        wait_for_workers(pictures, other, lost=lost)
        for picture in pictures:
            down = picture.engines[lost]
            assert "Its process is lost" in down["trouble"]
            assert f"it worked on {batch_id}." in down["trouble"]
            assert down["in_flight"] == 0
            assert f"it worked on {batch_id}." in picture.told
            assert picture.models
        # An hour goes by.
        company.run("UPDATE workers SET seen_at_ms = seen_at_ms - ? WHERE pid = ?", HOUR_MS, int(lost.split(":")[1]))
        wait_for_workers(pictures, other)
        company.wait_until(lambda: company.run("SELECT pid FROM workers WHERE role = 'work'") == [(other.pid,)])
        killed.start()
        wait_for_workers(pictures, other, killed)


def test_where_all_workers_are_dead_no_model_is_shown_and_batches_say_why_they_wait(
    engine: NullEngine, tmp_path: Path
) -> None:
    with Company(tmp_path / "data", engine.url, workers=1, server__lease_s=LEASE_S) as company:
        pictures = [Picture(api, tmp_path) for api in company.apis]
        (worker,) = company.workers
        wait_for(pictures, lambda picture: picture.models)
        lost = name(worker)
        worker.kill()
        wait_for(pictures, lambda picture: picture.lost == {lost})
        assert [picture.models for picture in pictures] == [[], []]
        batch_id = company.client.create(company.client.upload(request_lines(5)))
        for api in company.apis:
            waiting = Client(api).retrieve(batch_id)["waiting"]
            assert waiting["reason"] == "engine_unavailable"
            assert "--role work" in waiting["message"]
        # Nobody is left who would remove the row.
        company.run("UPDATE workers SET seen_at_ms = seen_at_ms - ?", HOUR_MS)
        wait_for(pictures, lambda picture: picture.states == {})
        worker.start()
        assert company.client.wait_for_end(batch_id)["status"] == "COMPLETED"
        for api in company.apis:
            assert not Client(api).retrieve(batch_id).get("waiting")


# A process that stands still within a write to SQLite holds up all writers, which the others tell as 503.
@pytest.mark.slow
def test_a_worker_that_stands_still_is_down_until_it_goes_on(engine: NullEngine, tmp_path: Path) -> None:
    with Company(tmp_path / "data", engine.url, workers=1, server__lease_s=LEASE_S) as company:
        pictures = [Picture(api, tmp_path) for api in company.apis]
        (worker,) = company.workers
        wait_for(pictures, lambda picture: picture.models)
        company.freeze(worker)
        try:
            wait_for(pictures, lambda picture: "Its process is lost" in picture.told)
        finally:
            company.thaw(worker)
        wait_for(pictures, lambda picture: picture.engines[name(worker)]["trouble"] is None)
        wait_for(pictures, lambda picture: picture.models)
