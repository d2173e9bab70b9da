import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill.cli import local_run
from backfill.cli.local_run import Ended, Job, run_job
from backfill.cli.progress import ProgressDisplay
from backfill.config import Config, load_config
from backfill.errors import StoreBusy
from backfill.local import discard_state, find_state
from backfill.store import FolderLock
from bench.null.process import NullEngine
from tests.support.lines import request_line


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture
def job(tmp_path: Path) -> Job:
    lines = [request_line(number) for number in range(3)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    return Job(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl", endpoint="/v1/chat/completions"
    )


def configure(job: Job, engine: NullEngine) -> Config:
    overrides = {"data_dir": find_state(job.output_path), "engines": {"e": {"url": engine.url}}}
    return load_config(environment={}, overrides=overrides)


class Crash(Exception):
    """Stands for the end of the process."""


def carry_out(job: Job, config: Config) -> Ended:
    with ProgressDisplay(as_json=False) as display:
        ending = asyncio.run(run_job(job, config, display))
    assert isinstance(ending, Ended)
    return ending


@pytest.mark.parametrize("step", ["_put_results", "discard_state"])
def test_a_crash_at_the_end_costs_nothing(
    step: str, job: Job, engine: NullEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the results were put in place or not, the next run does only that, and no line again."""
    config = configure(job, engine)

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(local_run, step, crash)
        with pytest.raises(Crash):
            carry_out(job, config)
    assert find_state(job.output_path).is_dir()
    ended = carry_out(job, config)
    assert (ended.batch.counts.answered, ended.done_before) == (3, 3)
    assert engine.stats()["received"] == 3
    assert len(job.output_path.read_bytes().splitlines()) == 3
    assert not find_state(job.output_path).exists()


def test_a_removal_that_was_cut_off_is_finished(job: Job) -> None:
    state = find_state(job.output_path)
    left = state.with_name(f"{state.name}-removed")
    (left / "blobs").mkdir(parents=True)
    discard_state(job.output_path)
    assert not left.exists()


def test_the_state_of_a_running_process_is_not_removed(job: Job) -> None:
    state = find_state(job.output_path)
    lock = FolderLock(state)
    try:
        with pytest.raises(StoreBusy, match=r"Another `backfill run` is writing .*out\.jsonl\."):
            discard_state(job.output_path)
        assert state.is_dir()
    finally:
        lock.release()
    discard_state(job.output_path)
    assert not state.exists()
