"""`backfill run` from end to end, and what is left when it is stopped in the middle."""

import json
import os
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import CommandLine, backfill
from tests.support.lines import marker_of, request_line

LINES = 12
# They hang on their first try: a run comes to a stand with 8 answered and 4 in flight.
HANGING = range(8, LINES)
HANG_ONCE = {marker_of(number): ["hang"] for number in HANGING}
QUICK = {"BACKFILL_DISPATCH__CANCEL_GRACE_S": "0.1", "BACKFILL_DISPATCH__BACKOFF_S": "0.01"}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_input(tmp_path / "in.jsonl", range(LINES))
    return tmp_path


def write_input(path: Path, numbers: range) -> None:
    path.write_bytes(b"".join(request_line(number) + b"\n" for number in numbers))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(engine: NullEngine, *more: object) -> tuple[object, ...]:
    return ("run", "in.jsonl", "-o", "out.jsonl", "--engine", engine.url, "--concurrency", 4, *more)


def assert_complete(folder: Path) -> None:
    """Every line is answered, once, in the order of the input, and nothing else is left."""
    results = read(folder / "out.jsonl")
    assert [result["custom_id"] for result in results] == [f"request-{number}" for number in range(LINES)]
    for number, result in enumerate(results):
        content = result["response"]["body"]["choices"][0]["message"]["content"]
        assert content.startswith(f"marker-{marker_of(number)} ")
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def assert_nothing_ran_twice_but(numbers: range, engine: NullEngine) -> None:
    received = Counter(engine.markers())
    assert received == {marker_of(number): 2 if number in numbers else 1 for number in range(LINES)}


def test_every_line_is_answered_in_input_order(folder: Path, engine: NullEngine) -> None:
    code, out, err = backfill(*options(engine), folder=folder, fresh=True)
    assert (code, out) == (0, "")
    assert_complete(folder)
    assert "12 answered, 0 failed" in err
    assert "6,144 tokens in, 768 out" in err


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027])
def test_results_follow_the_umask_and_the_state_folder_is_private(folder: Path, engine: NullEngine, umask: int) -> None:
    engine.behave(faults=HANG_ONCE)
    before = os.umask(umask)
    try:
        with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as run:
            run.wait_for_answers(8)
            state = folder / "out.jsonl.backfill"
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
            run.send(signal.SIGINT)
        assert modes == {0o700, 0o600}
        assert backfill(*options(engine), folder=folder, variables=QUICK)[0] == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "out.jsonl").stat().st_mode) == 0o666 & ~umask


def test_refused_lines_go_to_the_error_file(folder: Path, engine: NullEngine) -> None:
    engine.behave(faults={marker_of(3): ["400"], marker_of(7): ["422"]})
    code, out, err = backfill(*options(engine, "--json"), folder=folder)
    assert code == 1
    answered = [result["custom_id"] for result in read(folder / "out.jsonl")]
    assert answered == [f"request-{number}" for number in range(LINES) if number not in (3, 7)]
    assert [error["custom_id"] for error in read(folder / "out.errors.jsonl")] == ["request-3", "request-7"]
    finished = json.loads(out.splitlines()[-1])
    assert finished["event"] == "finished"
    assert (finished["total"], finished["answered"], finished["failed"]) == (12, 10, 2)
    assert (finished["output"], finished["errors"]) == ("out.jsonl", "out.errors.jsonl")
    assert "10 answered, 2 failed" in err


def test_where_errors_go_can_be_said(folder: Path, engine: NullEngine) -> None:
    engine.behave(fault_all="400")
    code, _, _ = backfill(*options(engine, "--errors", "bad.jsonl"), folder=folder)
    assert code == 1
    assert len(read(folder / "bad.jsonl")) == LINES
    assert (folder / "out.jsonl").read_bytes() == b""


def test_requests_that_cannot_be_sent_are_errors_and_the_others_run(folder: Path, engine: NullEngine) -> None:
    bad = [request_line(number, custom_id=f"bad-{number}", stream=True) for number in range(50, 52)]
    (folder / "in.jsonl").write_bytes(b"\n".join([bad[0], *(request_line(n) for n in range(LINES)), bad[1]]) + b"\n")
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 1
    assert f"{LINES} answered, 2 failed" in err
    assert [result["custom_id"] for result in read(folder / "out.jsonl")] == [f"request-{n}" for n in range(LINES)]
    assert {error["custom_id"]: error["error"]["code"] for error in read(folder / "out.errors.jsonl")} == {
        "bad-50": "invalid_request",
        "bad-51": "invalid_request",
    }
    assert engine.stats()["received"] == LINES


def test_every_bad_line_is_named_and_nothing_runs(folder: Path, engine: NullEngine) -> None:
    bad = [b'{"custom_id": %d}' % number for number in range(30)]
    (folder / "in.jsonl").write_bytes(b"\n".join([request_line(0), *bad]) + b"\n")
    code, out, err = backfill(*options(engine, "--json"), folder=folder)
    assert code == 2
    assert [f"in.jsonl:{line}: custom_id must be a string." in err for line in range(2, 32)] == [True] * 30
    assert "error: in.jsonl has 30 problems; nothing was run." in err
    error = json.loads(out)
    assert error["code"] == "invalid_input_file"
    assert [problem["line"] for problem in error["problems"]] == list(range(2, 32))
    assert engine.stats()["received"] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl"]


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, engine: NullEngine) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as first:
        first.wait_for_answers(8)
        engine.wait_for(lambda stats: stats["in_flight"] == 4)
        first.send(signal.SIGINT)
        assert first.wait() == 130
        assert first.events[-1] == {"event": "interrupted", "total": 12, "done": 8}
        assert "stopped with 8 of 12 done; the same command goes on from there" in first.err
    assert not (folder / "out.jsonl").exists()
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 0
    assert "12 answered, 0 failed (8 of them by an earlier run)" in err
    assert_complete(folder)
    assert_nothing_ran_twice_but(HANGING, engine)


def test_a_killed_run_goes_on_where_it_stopped(folder: Path, engine: NullEngine) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder) as first:
        first.wait_for_answers(8)
        engine.wait_for(lambda stats: stats["in_flight"] == 4)
        first.send(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    assert backfill(*options(engine), folder=folder)[0] == 0
    assert_complete(folder)
    assert_nothing_ran_twice_but(HANGING, engine)


def test_requests_in_flight_may_finish(folder: Path, engine: NullEngine) -> None:
    engine.behave(hold=True)
    with CommandLine(*options(engine), folder=folder) as first:
        engine.wait_for(lambda stats: stats["in_flight"] == 4)
        first.send(signal.SIGTERM)
        first.wait_for(lambda it: "finishing 4 requests in flight, press again to stop at once" in it.err)
        engine.behave(hold=False)
        assert first.wait() == 130
        assert "stopped with 4 of 12 done" in first.err
    assert backfill(*options(engine), folder=folder)[0] == 0
    assert_complete(folder)
    assert_nothing_ran_twice_but(range(0), engine)


def test_a_second_signal_stops_at_once(folder: Path, engine: NullEngine) -> None:
    engine.behave(hold=True)
    with CommandLine(*options(engine), folder=folder, variables={"BACKFILL_DISPATCH__CANCEL_GRACE_S": "3600"}) as first:
        engine.wait_for(lambda stats: stats["in_flight"] == 4)
        first.send(signal.SIGINT)
        first.wait_for(lambda it: "finishing 4 requests" in it.err)
        first.send(signal.SIGINT)
        assert first.wait() == 130
        assert "stopped at once" in first.err
    engine.behave(hold=False)
    assert backfill(*options(engine), folder=folder)[0] == 0
    assert_complete(folder)


def test_other_settings_may_go_on_with_a_run(folder: Path, engine: NullEngine) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as first:
        first.wait_for_answers(8)
        first.send(signal.SIGINT)
        assert first.wait() == 130
    with NullEngine(echo=True) as other:
        command = ("run", "in.jsonl", "-o", "out.jsonl", "--engine", other.url, "--model", "another")
        assert backfill(*command, folder=folder)[0] == 0
        assert sorted(other.markers()) == [marker_of(number) for number in HANGING]
    assert_complete(folder)


def test_a_run_is_not_mixed_with_another_input_or_endpoint(folder: Path, engine: NullEngine) -> None:
    engine.behave(hold=True)
    with CommandLine(*options(engine), folder=folder) as first:
        engine.wait_for(lambda stats: stats["in_flight"] == 4)
        code, _, err = backfill(*options(engine), folder=folder)
        assert code == 2
        assert err == "error: Another `backfill run` is writing out.jsonl.\n"
        first.send(signal.SIGKILL)
        first.wait()
    engine.behave(hold=False)
    code, _, err = backfill(*options(engine, "--endpoint", "/v1/completions"), folder=folder)
    assert code == 2
    assert "is for /v1/chat/completions. Use --force" in err
    write_input(folder / "in.jsonl", range(LINES, LINES + 3))
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 2
    assert "in.jsonl changed since" in err
    assert "--force" in err
    assert not (folder / "out.jsonl").exists()
    assert backfill(*options(engine, "--force"), folder=folder)[0] == 0
    assert [result["custom_id"] for result in read(folder / "out.jsonl")] == ["request-12", "request-13", "request-14"]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_results_are_replaced_only_by_force(folder: Path, engine: NullEngine) -> None:
    (folder / "out.jsonl").write_text("mine\n")
    (folder / "out.errors.jsonl").write_text("of last time\n")
    code, out, err = backfill(*options(engine, "--json"), folder=folder)
    assert code == 2
    assert err == "error: out.jsonl exists already. Use --force to replace it, or choose another name.\n"
    assert json.loads(out)["code"] == "file_exists"
    assert (folder / "out.jsonl").read_text() == "mine\n"
    assert engine.stats()["received"] == 0
    assert backfill(*options(engine, "--force"), folder=folder)[0] == 0
    assert_complete(folder)


def test_an_engine_that_is_not_there_is_waited_for(folder: Path) -> None:
    with NullEngine(echo=True) as engine:
        port = engine.port
    with CommandLine(*options(engine), folder=folder, variables=QUICK) as run:
        run.wait_for(lambda it: "cannot be reached" in it.err)
        with NullEngine(echo=True, port=port):
            assert run.wait() == 0
    assert_complete(folder)


def test_requests_without_a_model_take_the_one_given(folder: Path, engine: NullEngine) -> None:
    (folder / "in.jsonl").write_bytes(request_line(0, model=None) + b"\n")
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 2
    assert "in.jsonl:1: body.model is missing" in err
    assert backfill(*options(engine, "--model", "m"), folder=folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.jsonl", "-o", "out.jsonl", "--model", "none.gguf"), "error: There is no model 'none.gguf'"),
        (
            ("none.jsonl", "-o", "out.jsonl"),
            "error: There is no input file none.jsonl; check its name and its folder.\n",
        ),
        (
            ("in.jsonl", "-o", "none/out.jsonl"),
            "error: The folder none does not exist; make it, or choose another place.\n",
        ),
        (("in.jsonl", "-o", "in.jsonl", "--force"), "error: Input, output and errors must be three different files.\n"),
        (("in.jsonl", "-o", "out.jsonl", "--endpoint", "/v1/x"), "error: endpoint must be one of"),
        (("in.jsonl", "-o", "out.jsonl", "--engine", "x"), "error: The setting 'engines.external.url' is not valid"),
        (("in.jsonl", "-o", "out.jsonl", "--engine", "http://x", "--api-key-env", "X_KEY"), "error: The environment"),
        (("in.jsonl", "-o", "out.jsonl", "--api-key-env", "X_KEY"), "error: --api-key-env is the key of --engine"),
        (("in.jsonl", "-o", "."), "Usage:"),
        (("in.jsonl",), "error: -o FILE says where the answers go"),
        (("in.jsonl", "-o", "out.jsonl", "--concurrency", "0"), "Usage:"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    code, _, err = backfill("run", *arguments, folder=folder)
    assert code == 2
    assert err.startswith(message)
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl"]
