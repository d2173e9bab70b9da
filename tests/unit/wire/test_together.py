"""Together's dialect, as far as it is pure."""

import json

import pytest

from backfill.batch import Batch, BatchProblem, Counts, Outcome, State
from backfill.status import Waiting, WaitReason
from backfill.wire.together import render_batch, render_error_line, render_output_line, render_rest_line

SIX = {"VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}


def make_batch(**members: object) -> Batch:
    facts: dict[str, object] = {
        "id": "b-1",
        "owner": "o",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "input_size_bytes": 5,
        "state": State.IN_PROGRESS,
        "created_at_ms": 1_750_000_000_123,
        "deadline_at_ms": 1_750_086_400_123,
    }
    return Batch(**(facts | members))  # type: ignore[arg-type]


@pytest.mark.parametrize("state", list(State))
def test_clients_only_ever_see_the_six_statuses(state: State) -> None:
    assert render_batch(make_batch(state=state), Counts())["status"] in SIX


def test_times_have_a_zone_and_progress_is_a_number() -> None:
    shown = render_batch(make_batch(), Counts(total=3, answered=1))
    assert shown["created_at"] == "2025-06-15T15:06:40.123000Z"
    assert shown["completed_at"] is None
    assert shown["progress"] == 33.33
    assert render_batch(make_batch(), Counts())["progress"] == 0.0


def test_a_failed_batch_says_why_in_one_string_and_how_many_more() -> None:
    problems = (BatchProblem("a", "is bad.", line=3), BatchProblem("b", "is empty."))
    error = render_batch(make_batch(state=State.FAILED, problems=problems, problem_count=9), Counts())["error"]
    assert error == "line 3: is bad.; is empty.; and 7 more"


def test_an_output_line_holds_the_engines_own_bytes() -> None:
    body = b'{"b" : 1.0, "a":2}'
    line = render_output_line("b-1", 4, b'"id\\u00e9"', 200, body)
    assert line.endswith(b"\n")
    assert b'"body":' + body in line
    decoded = json.loads(line)
    assert decoded["custom_id"] == "idé"
    assert decoded["response"]["status_code"] == 200
    assert decoded["id"].startswith("br_")
    assert line == render_output_line("b-1", 4, b'"id\\u00e9"', 200, body)
    assert decoded["id"] != json.loads(render_output_line("b-1", 5, b'"x"', 200, body))["id"]


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"too long","type":"exceed","code":400}}', "too long", "exceed"),
        (b'{"error":{"message":"too long","code":"context"}}', "too long", "context"),
        (b'{"error":"plain"}', "plain", "http_422"),
        (b'{"detail":"not here"}', "not here", "http_422"),
        (b'{"message":"flat","type":"t"}', "flat", "t"),
    ],
)
def test_an_error_line_has_message_and_code_whatever_the_engine_said(body: bytes, message: str, code: str) -> None:
    error = json.loads(render_error_line("b-1", 0, b'"a"', Outcome.REFUSED, 422, body))["error"]
    assert error == {"message": message, "code": code}


@pytest.mark.parametrize(("state", "code"), [(State.EXPIRING, "batch_expired"), (State.CANCELLING, "batch_cancelled")])
def test_lines_left_over_say_why(state: State, code: str) -> None:
    line = json.loads(render_rest_line("b-1", 0, b'"a"', state))
    assert line["custom_id"] == "a"
    assert line["error"]["code"] == code


@pytest.mark.parametrize("state", [state for state in State if state is not State.PAUSED])
def test_why_it_waits_is_told_only_while_it_can_wait(state: State) -> None:
    waiting = Waiting.explain(WaitReason.ENGINE, "engine e:\n" + "gone " * 999, 1_750_000_001_000)
    shown = render_batch(make_batch(state=state), Counts(), waiting)
    if state.is_final:
        assert "waiting" not in shown
    else:
        assert shown["waiting"]["reason"] == "engine_unavailable"
        assert shown["waiting"]["since"] == "2025-06-15T15:06:41.000000Z"
        assert shown["waiting"]["message"].startswith("engine e: gone ")
        assert len(shown["waiting"]["message"]) == 500
    assert "waiting" not in render_batch(make_batch(state=state), Counts())


def test_a_paused_batch_says_so_whoever_is_asked() -> None:
    shown = render_batch(make_batch(state=State.PAUSED, paused_at_ms=1_750_000_001_000), Counts())
    assert shown["status"] == "IN_PROGRESS"
    assert (shown["waiting"]["reason"], shown["waiting"]["since"]) == ("paused", "2025-06-15T15:06:41.000000Z")
    assert f"`backfill resume {shown['id']}`" in shown["waiting"]["message"]
