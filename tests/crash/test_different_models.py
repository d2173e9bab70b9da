"""Workers that serve different models: each line is answered by an engine that has its model, and none is lost."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.support.company import Company
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer

LINES = 60
PER_TURN = "10"


class Site:
    """Two engines, each with a model and a worker of its own, and processes that answer HTTP."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: Any) -> None:
        self.engines = {model: stack.enter_context(NullEngine(delay_ms=5)) for model in ("model-a", "model-b")}
        self.company = stack.enter_context(Company(folder, "", workers=0, **settings))
        self.workers = {
            model: BackfillServer(
                folder,
                engine.url,
                server__role="work",
                server__lease_s="1.5",
                engines__null__models=json.dumps([model]),
                **settings,
            )
            for model, engine in self.engines.items()
        }
        self._stack = stack

    def begin(self, *models: str) -> None:
        """Start workers, and have each tell of itself."""
        for model in models:
            worker = self._stack.enter_context(self.workers[model])
            self.company.wait_until(partial(self._has_told, worker, model))

    def _has_told(self, worker: BackfillServer, model: str) -> bool:
        told = self.company.run("SELECT pid FROM workers WHERE told LIKE ?", f'%"{model}"%')
        return (worker.pid,) in told

    def create(self, models: list[str], lines: int = LINES) -> str:
        """A batch whose lines name these models in turn."""
        data = b"".join(request_line(n, model=models[n % len(models)]) + b"\n" for n in range(lines))
        return self.company.client.create(self.company.client.upload(data))

    def wait_for_wait(self, batch_id: str) -> dict[str, Any]:
        """What a client is told of a batch that waits for a worker, once it is told so."""
        told: dict[str, Any] = {}

        def ask() -> bool:
            told.update(self.company.client.retrieve(batch_id).get("waiting", {}))
            return bool(told)

        self.company.wait_until(ask)
        return told

    def read(self, batch: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        """The lines of a file of results."""
        file_id = batch[f"{kind}_file_id"]
        return [] if file_id is None else [json.loads(line) for line in self.company.client.download(file_id)]

    def check_engines(self, models: list[str], lines: int = LINES) -> None:
        """Each line was sent once, to the engine that has its model."""
        for model, engine in self.engines.items():
            wanted = [marker_of(n) for n in range(lines) if models[n % len(models)] == model]
            assert Counter(engine.markers("received")) == Counter(wanted)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("per_turn", [PER_TURN, "2000"])
def test_lines_of_both_models_in_one_batch_and_of_one_that_nobody_serves(
    tmp_path: Path, stack: ExitStack, per_turn: str
) -> None:
    site = Site(tmp_path / "data", stack, dispatch__lines_per_turn=per_turn)
    site.begin("model-a", "model-b")
    models = ["model-a", "model-b", "model-c"]
    batch = site.company.client.wait_for_end(site.create(models))
    assert batch["status"] == "COMPLETED"
    output = [line["custom_id"] for line in site.read(batch, "output")]
    assert output == [f"request-{n}" for n in range(LINES) if n % 3 < 2]
    refused = site.read(batch, "error")
    assert [line["custom_id"] for line in refused] == [f"request-{n}" for n in range(LINES) if n % 3 == 2]
    assert {line["error"]["code"] for line in refused} == {"invalid_model"}
    assert all("this server serves: model-a, model-b." in line["error"]["message"] for line in refused)
    site.check_engines(models)


@pytest.mark.parametrize("per_turn", [PER_TURN, "2000"])
@pytest.mark.parametrize("ends_in_order", [True, False])
def test_lines_wait_for_a_worker_that_is_down_and_are_then_done(
    tmp_path: Path, stack: ExitStack, per_turn: str, *, ends_in_order: bool
) -> None:
    site = Site(tmp_path / "data", stack, dispatch__lines_per_turn=per_turn)
    site.begin("model-a", "model-b")
    gone = site.workers["model-b"]
    if ends_in_order:
        gone.terminate()
    else:
        gone.kill()
    models = ["model-a", "model-b"]
    client = site.company.client
    batch_id = site.create(models)
    waiting = site.wait_for_wait(batch_id)
    assert waiting["reason"] == "engine_unavailable"
    assert waiting["message"] == "lines wait for a worker that serves model model-b; none such runs now"
    # It is in nobody's way, and nobody takes it again and again.
    taken = site.company.run("SELECT epoch FROM batches UNION ALL SELECT epoch FROM slices")
    later = site.company.client.wait_for_end(site.create(["model-a"], lines=1))
    assert later["status"] == "COMPLETED"
    assert (
        site.company.run("SELECT epoch FROM batches WHERE id = ? UNION ALL SELECT epoch FROM slices", batch_id) == taken
    )
    gone.start()
    batch = client.wait_for_end(batch_id)
    assert batch["status"] == "COMPLETED"
    assert [line["custom_id"] for line in site.read(batch, "output")] == [f"request-{n}" for n in range(LINES)]
    assert batch["error_file_id"] is None


def test_after_all_have_ended_the_first_to_start_refuses_nothing_of_the_others(
    tmp_path: Path, stack: ExitStack
) -> None:
    site = Site(tmp_path / "data", stack)
    site.begin("model-a", "model-b")
    site.company.client.wait_for_end(site.create(["model-a"], lines=1))
    for worker in site.workers.values():
        worker.kill()
    client = site.company.client
    batch_id = site.create(["model-a", "model-b"])
    for process in site.company.apis:
        process.kill()
    # Alone in the data directory, it knows that all others are dead.
    site.workers["model-a"].start()
    site.company.wait_until(lambda: len(site.engines["model-a"].markers("received")) > LINES // 2)
    for process in site.company.apis:
        process.start()
    site.wait_for_wait(batch_id)
    site.workers["model-b"].start()
    batch = client.wait_for_end(batch_id)
    assert [line["custom_id"] for line in site.read(batch, "output")] == [f"request-{n}" for n in range(LINES)]


def test_what_waits_for_a_worker_is_cancelled_with_every_line_in_the_error_file(
    tmp_path: Path, stack: ExitStack
) -> None:
    site = Site(tmp_path / "data", stack)
    site.begin("model-a", "model-b")
    site.workers["model-b"].kill()
    client = site.company.client
    batch_id = site.create(["model-a", "model-b"])
    assert "model-b" in site.wait_for_wait(batch_id)["message"]
    client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
    batch = client.wait_for_end(batch_id)
    assert [line["custom_id"] for line in site.read(batch, "output")] == [f"request-{n}" for n in range(0, LINES, 2)]
    assert [line["custom_id"] for line in site.read(batch, "error")] == [f"request-{n}" for n in range(1, LINES, 2)]


@pytest.mark.parametrize("per_turn", [PER_TURN, "2000"])
def test_what_waits_for_a_worker_ends_at_its_deadline_with_every_line_in_one_of_the_files(
    tmp_path: Path, stack: ExitStack, per_turn: str
) -> None:
    # Some seven seconds.
    window = {"limits__window_min_h": "0.001", "limits__window_h": "0.002"}
    site = Site(tmp_path / "data", stack, dispatch__lines_per_turn=per_turn, **window)
    site.begin("model-a", "model-b")
    site.workers["model-b"].kill()
    batch_id = site.create(["model-a", "model-b"])
    assert "model-b" in site.wait_for_wait(batch_id)["message"]
    batch = site.company.client.wait_for_end(batch_id)
    assert batch["status"] == "EXPIRED"
    assert [line["custom_id"] for line in site.read(batch, "output")] == [f"request-{n}" for n in range(0, LINES, 2)]
    assert [line["custom_id"] for line in site.read(batch, "error")] == [f"request-{n}" for n in range(1, LINES, 2)]
    site.check_engines(["model-a", "none"])
