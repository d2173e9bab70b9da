"""Engines on Ray with different models: each is started for what waits for its model, and no line is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from bench.scale.ray_nodes import RayNodes, find_ray
from tests.support.lines import marker_of, request_line
from tests.support.ray_company import RayCompany

LINES = 60
ENGINE = """
[engines.{name}]
url = "{url}"
concurrency = 8
place = "ray"
models = ["model-{name}"]
"""

pytestmark = [pytest.mark.scale, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    if find_ray() is None:
        pytest.skip("Ray is not installed: pip install -r requirements/dev.txt")
    with RayNodes() as running, running.letting_in():
        yield running


def create(company: RayCompany, models: list[str], first: int) -> str:
    """A batch whose lines name these models in turn."""
    data = b"".join(request_line(n, model=models[n % len(models)]) + b"\n" for n in range(first, first + LINES))
    return company.client.create(company.client.upload(data))


def list_started(company: RayCompany) -> set[str]:
    """The engines of which workers have ever told."""
    told = company.run("SELECT told FROM workers WHERE role = 'work'")
    return {model["id"] for (row,) in told for model in json.loads(row)["models"]}


def test_each_engine_comes_for_its_own_model_and_a_batch_for_both_gets_both(nodes: RayNodes, tmp_path: Path) -> None:
    with NullEngine(delay_ms=20) as one, NullEngine(delay_ms=20) as other:
        engines = "".join(ENGINE.format(name=name, url=engine.url) for name, engine in (("a", one), ("b", other)))
        with RayCompany(tmp_path, "", nodes, engines=engines) as company:
            company.finish([create(company, ["model-b"], 0)], LINES)
            assert list_started(company) == {"model-b"}
            company.wait_for_workers(0)
            # One of the two comes first and finds lines for an engine that is not there.
            company.finish([create(company, ["model-a", "model-b"], LINES)], LINES)
            assert list_started(company) == {"model-a", "model-b"}
            company.wait_for_workers(0)
        both = range(LINES, 2 * LINES)
        assert Counter(one.markers()) == Counter(marker_of(n) for n in both if n % 2 == 0)
        assert Counter(other.markers()) == Counter(
            [marker_of(n) for n in range(LINES)] + [marker_of(n) for n in both if n % 2]
        )
