"""The throughput measurements: what they compare is what they say, and a broken promise of theirs is told."""

from pathlib import Path

import pytest

from bench.batch_run import BatchRun, run_batch
from bench.closed_loop import LoopRun
from bench.closed_loop_process import ClosedLoop
from bench.embedded_engines import SLOTS, configure_engines, describe_faults
from bench.engine_throughput import choose_concurrencies
from bench.filling import Filling, Sample, judge_filling
from bench.findings import Setting
from bench.null.process import NullEngine
from bench.replica_throughput import measure_kill
from bench.server_process import BackfillServer, name_null_engine
from bench.workloads import make_chats, write_requests

# What the null engine says of every answer.
NULL_TOKENS = 64


def make_samples(*in_flight: int, received: int = 0) -> list[Sample]:
    return [Sample(number / 10, count, received) for number, count in enumerate(in_flight)]


def test_filling_counts_from_the_first_full_sample() -> None:
    samples = make_samples(0, 50, 95, 100, 94, 100)
    assert judge_filling(samples, 1000, 100) == Filling(0.2, 0.75, 389 / 400)


def test_filling_leaves_the_tail_out() -> None:
    samples = [*make_samples(100, 100), Sample(0.2, 10, 900), Sample(0.3, 10, 901)]
    assert judge_filling(samples, 1000, 100) == Filling(0.0, 2 / 3, 0.7)


def test_an_engine_that_is_never_full_is_told() -> None:
    assert judge_filling(make_samples(0, 94, 94), 1000, 100) == Filling(None, 0.0, 0.0)
    assert judge_filling([Sample(1.0, 100, 990)], 1000, 100) == Filling(1.0, 0.0, 0.0)


def test_the_best_of_a_sweep_are_tried_again() -> None:
    assert choose_concurrencies({1: 100.0, 8: 300.0, 16: 310.0, 32: 290.0}) == [16, 8]
    assert choose_concurrencies({1: 100.0, 8: 200.0, 16: 310.0}) == [16]


def test_an_engine_is_configured_with_the_places_that_the_loop_knows() -> None:
    engines = configure_engines(*SLOTS)
    assert engines["openvino"] == {"kind": "openvino", "models": ["openvino"], "concurrency": SLOTS["openvino"]}
    assert engines["llamacpp"] == {"kind": "llamacpp", "models": ["llamacpp"], "slots": SLOTS["llamacpp"]}


def test_what_is_wrong_with_a_run_is_told_with_its_side() -> None:
    assert describe_faults(LoopRun(4, 2.0, 100, 0, 0), "x") == []
    assert describe_faults(LoopRun(4, 2.0, 100, 1, 2), "x") == [
        "x: 1 requests were not answered",
        "x: 2 answers have not the length asked for",
    ]
    assert describe_faults(BatchRun(4, 2.0, 100, violations=["that"]), "x") == ["x: that"]


@pytest.mark.parametrize(("asked", "wrong"), [(NULL_TOKENS, 0), (NULL_TOKENS + 1, 20)])
def test_the_closed_loop_sends_each_request_once_in_order(tmp_path: Path, asked: int, wrong: int) -> None:
    path = write_requests(tmp_path / "input.jsonl", make_chats("m", 20, (asked,), "salt"))
    with NullEngine(delay_ms=5) as engine, ClosedLoop("address", engine.url) as loop:
        run = loop.run(path, 4)
        stats = engine.stats()
    assert (run.lines, run.completion_tokens, run.failed, run.wrong_lengths) == (20, 20 * NULL_TOKENS, 0, wrong)
    assert run.tokens_per_s == run.completion_tokens / run.seconds
    assert (stats["received"], stats["peak_in_flight"]) == (20, 4)


def test_the_closed_loop_tells_what_failed(tmp_path: Path) -> None:
    path = write_requests(tmp_path / "input.jsonl", make_chats("m", 5, (NULL_TOKENS,), "salt"))
    with NullEngine(fault_all="500") as engine, ClosedLoop("address", engine.url) as loop:
        run = loop.run(path, 2)
    assert (run.completion_tokens, run.failed) == (0, 5)


@pytest.mark.parametrize(("asked", "violations"), [(NULL_TOKENS, 0), (NULL_TOKENS + 1, 1)])
def test_a_batch_is_run_and_its_answers_are_checked(tmp_path: Path, asked: int, violations: int) -> None:
    path = write_requests(tmp_path / "input.jsonl", make_chats("m", 20, (asked,), "salt"))
    with NullEngine() as engine, BackfillServer(tmp_path / "data", name_null_engine(engine.url, 8)) as server:
        run = run_batch(server, path)
        assert len(run_batch(server, path, checks_lengths=False).violations) == 0
    assert (run.lines, run.completion_tokens) == (20, 20 * NULL_TOKENS)
    assert len(run.violations) == violations
    assert run.seconds > 0


def test_a_replica_that_is_killed_takes_no_line_with_it(tmp_path: Path) -> None:
    killed = measure_kill(tmp_path, 400)
    assert (killed.lost, killed.redone, killed.violations) == (0, 0, [])
    assert 0 < killed.finished < 400


def test_measurements_shrink_with_the_input(tmp_path: Path) -> None:
    assert Setting(tmp_path, tmp_path, 50_000, 64).scale(3000) == 3000
    assert Setting(tmp_path, tmp_path, 5_000, 64).scale(3000) == 300
    assert Setting(tmp_path, tmp_path, 10, 64).scale(3000) == 20
    assert Setting(tmp_path, tmp_path, 10, 64).count_repeats(5) == 5
    assert Setting(tmp_path, tmp_path, 10, 64, repeats=2).count_repeats(5) == 2
