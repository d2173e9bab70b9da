"""Workers on a real Ray cluster: they come with the work, go after it, and any part of it may be killed."""

import json
import os
import signal
import sys
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
        # Of nodes that a head does not come back to nothing is left after a minute, and no worker either.
        assert nodes.nodes[0].has_raylet
        company.finish(create(company, 1, first=LINES + 2000), LINES)
        company.wait_for_workers(0)


SERVER = """
import argparse, sys
sys.path.insert(0, {root!r})
from bench.null import engine
parser = argparse.ArgumentParser()
parser.add_argument("--port")
port = parser.parse_known_args()[0].port
sys.argv = ["null_engine", "--port", port, "--delay-ms", "50", "--log", {log!r}]
engine.main()
"""
MANAGED = """
[engines.null]
kind = "vllm"
model = "owner/model"
models = ["m"]
command = {command}
concurrency = 8
place = "ray"
"""


@pytest.mark.slow
def test_the_engine_of_a_worker_is_killed_and_started_again(nodes: RayNodes, tmp_path: Path) -> None:
    """The null engine stands for vLLM: a program that the worker starts on its node and ends."""
    log, script = tmp_path / "log", tmp_path / "server.py"
    script.write_text(SERVER.format(root=str(Path(__file__).parents[2]), log=str(log)))
    engines = MANAGED.format(command=json.dumps([sys.executable, str(script)]))
    with RayCompany(tmp_path, "", nodes, engines=engines) as company:
        (batch_id,) = create(company, 1, 600)
        company.wait_long(lambda: log.exists() and len(read_received(log)) >= 50)
        worker = company.wait_for_turn()
        killed = find_engines(worker, script)
        for process in killed:
            process.kill()
        company.finish([batch_id], 600)
        assert company.worker_pids == [worker]
        (engine,) = find_engines(worker, script)
        assert engine not in killed
        received = read_received(log)
        assert len(set(received)) == 600
        assert len(received) - 600 <= CONCURRENCY
    psutil.wait_procs([engine], timeout=30)
    assert not engine.is_running()


def read_received(log: Path) -> list[str]:
    events = [json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [marker for event, marker, _ in events if event == "received"]


def find_engines(worker_pid: int, script: Path) -> list[psutil.Process]:
    """The processes of a worker's engine, without those that only watch it."""
    below = psutil.Process(worker_pid).children(recursive=True)
    return [process for process in below if process.cmdline()[1:2] == [str(script)]]


@pytest.mark.slow
def test_the_whole_cluster_is_gone_and_another_one_answers_in_its_place(engine: NullEngine, tmp_path: Path) -> None:
    with (
        RayNodes() as nodes,
        nodes.letting_in(),
        RayCompany(tmp_path, engine.url, nodes, most=2, idle_s=2.0) as company,
    ):
        company.finish(create(company, 1), LINES)
        batch_ids = create(company, 4, 300, first=LINES)
        engine.wait_for(lambda stats: stats["received"] >= LINES + 100, timeout_s=60)
        before = company.worker_pids
        nodes.kill()
        nodes.forget()
        company.wait_for_workers(0)
        # Nothing else notices: what is new is taken in, and waits.
        batch_ids += create(company, 1, 300, first=LINES + 1200)
        company.wait_long(lambda: company.client.retrieve(batch_ids[-1]).get("waiting"))
        nodes.start()
        company.finish(batch_ids, 300)
        assert not {*before} & {*company.worker_pids}
        assert count_redone(engine, LINES + 1500) <= CONCURRENCY * len(before)
        assert company.scalers[0].is_running
        company.wait_for_workers(0)
