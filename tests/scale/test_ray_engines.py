"""The built-in engines on a node of Ray: a worker starts its engine beside itself, and ends it when it goes."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.scale.ray_nodes import RayNodes, find_ray
from tests.support.lines import request_line
from tests.support.ray_company import RayCompany

LINES = 6
ENGINE = """
[engines.{kind}]
kind = "{kind}"
models = ["model-{kind}"]
place = "ray"
"""

pytestmark = [pytest.mark.scale, pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    if find_ray() is None:
        pytest.skip("Ray is not installed: pip install -r requirements/dev.txt")
    with RayNodes() as running, running.letting_in():
        yield running


def is_engine(process: psutil.Process) -> bool:
    try:
        return any(word.startswith("backfill.engines.") for word in process.cmdline())
    except psutil.NoSuchProcess:  # ended since it was listed, or ended and not waited for
        return False


def find_engines(worker_pid: int) -> list[psutil.Process]:
    """The processes of built-in engines that a worker has started."""
    return [process for process in psutil.Process(worker_pid).children(recursive=True) if is_engine(process)]


@pytest.mark.parametrize("kind", ["openvino", "llamacpp"])
def test_a_built_in_engine_comes_with_its_worker_and_goes_with_it(nodes: RayNodes, tmp_path: Path, kind: str) -> None:
    with RayCompany(tmp_path, "", nodes, engines=ENGINE.format(kind=kind)) as company:
        client = company.client
        lines = [request_line(n, model=f"model-{kind}", max_tokens=4) + b"\n" for n in range(LINES)]
        batch_id = client.create(client.upload(b"".join(lines)))
        worker = company.wait_for_turn()
        company.wait_until(lambda: find_engines(worker))
        (engine,) = find_engines(worker)
        company.finish([batch_id], LINES)
        output = client.download(client.wait_for_end(batch_id)["output_file_id"])
        said = [json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] for line in output]
        assert all(said)
        company.wait_for_workers(0)
        company.wait_until(lambda: not engine.is_running())
