"""Workers on Ray with rows in PostgreSQL and files in an object store, beside workers without Ray."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from bench.scale.ray_nodes import RayNodes, find_ray
from tests.support.lines import request_lines
from tests.support.machines import RemoteStore
from tests.support.ray_company import RayCompany
from tests.support.server_process import BackfillServer

LINES = 1200

pytestmark = [pytest.mark.scale, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def nodes(remote_store: RemoteStore, tmp_path: Path) -> Iterator[RayNodes]:
    """Two, as on two machines: what they need to know of the store they have in their environments."""
    if find_ray() is None:
        pytest.skip("Ray is not installed: pip install -r requirements/dev.txt")
    own = [remote_store.variables | {"BACKFILL_DATA_DIR": str(tmp_path / f"node-{number}")} for number in range(2)]
    with RayNodes(nodes=2, places=1, settings=own) as running, running.letting_in():
        yield running


def test_a_batch_is_shared_by_workers_on_two_nodes_and_one_without_ray(
    nodes: RayNodes, remote_store: RemoteStore, tmp_path: Path
) -> None:
    with (
        NullEngine(delay_ms=50) as near,
        NullEngine(delay_ms=50) as far,
        RayCompany(tmp_path, far.url, nodes, store=remote_store, least=2) as company,
        BackfillServer(
            tmp_path / "worker", near.url, server__role="work", server__lease_s="1.5", **remote_store.settings
        ),
    ):
        company.wait_for_workers(3)
        batch_id = company.client.create(company.client.upload(request_lines(LINES)))
        far.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
        near.wait_for(lambda stats: stats["received"] >= 50, timeout_s=60)
        company.finish([batch_id], LINES)
        received = Counter(near.markers() + far.markers())
        assert len(received) == LINES
        assert sum(received.values()) == LINES
        workers = company.run("SELECT DISTINCT substr(id, 1, 16) FROM workers WHERE role = 'work'")
        # Each has a data directory of its own.
        assert len(workers) == 3
        assert nodes.find_kept(remote_store.settings["store__metadata"]) == []
        company.scalers[0].terminate()
        for pid in company.worker_pids:
            company.kill_actor(pid)
