"""Workers on a real Ray cluster: they come with the work, go after it, and any part of it may be killed."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.null.process import NullEngine
from bench.scale.ray_nodes import RayNodes, find_ray
from tests.support.lines import request_lines
from tests.support.ray_company import SECRET, RayCompany

CONCURRENCY = 8
LINES = 60

pytestmark = [pytest.mark.scale, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    if find_ray() is None:
        pytest.skip("Ray is not installed: pip install -r requirements/dev.txt")
    with RayNodes() as running, running.letting_in():
        yield running


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(delay_ms=50) as running:
        yield running


def create(company: RayCompany, count: int, lines: int = LINES, first: int = 0) -> list[str]:
    client = company.client
    return [client.create(client.upload(request_lines(lines, first + lines * number))) for number in range(count)]


def count_redone(engine: NullEngine, lines: int) -> int:
    received = Counter(engine.markers("received"))
    assert len(received) == lines
    return sum(received.values()) - lines


def test_workers_come_with_the_work_and_go_after_it(nodes: RayNodes, engine: NullEngine, tmp_path: Path) -> None:
    with RayCompany(tmp_path, engine.url, nodes) as company:
        assert company.worker_pids == []
        company.wait_long(lambda: company.client.request("GET", "/v1/engines").json()["data"])
        (told,) = company.client.request("GET", "/v1/engines").json()["data"]
        assert told["name"].startswith("null@")
        assert (told["state"], told["trouble"]) == ("down", "No replica runs on Ray, since nothing waits for one.")
        # The first batch tells how fast a worker is.
        company.finish(create(company, 1), LINES)
        # One that is cut into slices, and others that are not.
        large, small = create(company, 1, 12 * LINES, first=LINES), create(company, 4, first=13 * LINES)
        company.wait_for_workers(2)
        company.finish(large, 12 * LINES)
        company.finish(small, LINES)
        company.wait_for_workers(0)
        assert count_redone(engine, 17 * LINES) == 0
        # Ray has kept what it was given, and nothing of the settings.
        assert nodes.find_kept("backfill.toml")
        assert nodes.find_kept(SECRET) == []


def test_an_actor_is_killed(nodes: RayNodes, engine: NullEngine, tmp_path: Path) -> None:
    with RayCompany(tmp_path, engine.url, nodes, most=1) as company:
        batch_ids = create(company, 1, 600)
        engine.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
        first = company.wait_for_turn()
        company.kill_actor(first)
        company.finish(batch_ids, 600)
        assert first not in company.worker_pids
        assert count_redone(engine, 600) <= CONCURRENCY


@pytest.mark.slow
def test_a_workers_process_is_killed(nodes: RayNodes, engine: NullEngine, tmp_path: Path) -> None:
    with RayCompany(tmp_path, engine.url, nodes, most=1) as company:
        batch_ids = create(company, 1, 600)
        engine.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
        os.kill(company.wait_for_turn(), signal.SIGKILL)
        company.finish(batch_ids, 600)
        assert count_redone(engine, 600) <= CONCURRENCY


def test_the_scaler_is_killed_and_the_one_that_stood_by_goes_on(
    nodes: RayNodes, engine: NullEngine, tmp_path: Path
) -> None:
    with RayCompany(tmp_path, engine.url, nodes, scalers=2, idle_s=2.0) as company:
        company.finish(create(company, 1), LINES)
        batch_ids = create(company, 10, first=LINES)
        company.wait_for_turn()
        ((holder,),) = company.run("SELECT holder FROM leases WHERE name = 'scaling'")
        (deciding,) = [one for one in company.scalers if one.pid == find_pid(company, holder)]
        deciding.kill()
        company.finish(batch_ids, LINES)
        company.wait_for_workers(0)
        ((other,),) = company.run("SELECT holder FROM leases WHERE name = 'scaling'")
        assert other != holder
        assert count_redone(engine, 11 * LINES) == 0


def find_pid(company: RayCompany, holder: str) -> int:
    ((pid,),) = company.run("SELECT pid FROM workers WHERE id = ?", holder)
    return int(pid)


@pytest.mark.slow
def test_a_node_is_lost(engine: NullEngine, tmp_path: Path) -> None:
    with (
        RayNodes(nodes=2, places=1) as nodes,
        nodes.letting_in(),
        RayCompany(tmp_path, engine.url, nodes, least=2, idle_s=30.0) as company,
    ):
        company.wait_for_workers(2)
        batch_ids = create(company, 4, 300)
        engine.wait_for(lambda stats: stats["received"] >= 100, timeout_s=60)
        nodes.nodes[0].kill_raylet()
        company.finish(batch_ids, 300)
        assert count_redone(engine, 1200) <= CONCURRENCY
        # There is one place left, and Ray waits for another node.
        company.wait_for_workers(1)
        nodes.nodes[0].kill()
        nodes.nodes[0].start()
        company.wait_for_workers(2)
        company.scalers[0].terminate()
        for pid in company.worker_pids:
            company.kill_actor(pid)


@pytest.mark.slow
def test_the_head_is_killed_and_comes_back(engine: NullEngine, tmp_path: Path) -> None:
    with (
        RayNodes() as nodes,
        nodes.letting_in(),
        RayCompany(tmp_path, engine.url, nodes, most=2, idle_s=2.0) as company,
    ):
        company.finish(create(company, 1), LINES)
        batch_ids = create(company, 10, 200, first=LINES)
        before = company.wait_for_turn()
        nodes.head.kill()
        received = engine.stats()["received"]
        engine.wait_for(lambda stats: stats["received"] > received + 100, timeout_s=60)
        assert psutil.pid_exists(before)
        nodes.head.start()
        company.finish(batch_ids, 200)
        company.wait_for_workers(0)
        assert count_redone(engine, LINES + 2000) == 0
        assert company.scalers[0].is_running
