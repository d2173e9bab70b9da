"""OpenAI's dialect, as far as it is pure."""

import json

import msgspec
import pytest

from backfill.batch import Batch, BatchProblem, Counts, Dialect, Outcome, State, Usage
from backfill.status import Waiting, WaitReason
from backfill.wire.openai import render_batch, render_error_line, render_list, render_output_line, render_rest_line

EIGHT = {"validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"}
STAMPS = {"finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"}


def make_batch(state: State, **members: object) -> Batch:
    return Batch(
        id="b-1",
        owner="o",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        input_size_bytes=5,
        state=state,
        dialect=Dialect.OPENAI,
        created_at_ms=1_000_000,
        deadline_at_ms=9_000_000,
        started_at_ms=2_000_000,
        closing_at_ms=3_000_000,
        ended_at_ms=4_000_000,
        **members,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("state", "stamps"),
    [
        (State.VALIDATING, {}),
        (State.IN_PROGRESS, {}),
        (State.FINALIZING, {"finalizing_at": 3000}),
        (State.EXPIRING, {"finalizing_at": 3000}),
        (State.CANCELLING, {"cancelling_at": 3000}),
        (State.COMPLETED, {"finalizing_at": 3000, "completed_at": 4000}),
        (State.EXPIRED, {"finalizing_at": 3000, "expired_at": 4000}),
        (State.CANCELLED, {"cancelling_at": 3000, "cancelled_at": 4000}),
        (State.FAILED, {"failed_at": 4000}),
    ],
)
def test_each_status_has_its_time_stamps_and_no_other(state: State, stamps: dict[str, int]) -> None:
    shown = render_batch(make_batch(state), Counts())
    assert shown["status"] in EIGHT
    assert {name: shown[name] for name in STAMPS if shown[name] is not None} == stamps
    assert (shown["created_at"], shown["in_progress_at"], shown["expires_at"]) == (1000, 2000, 9000)


def test_counts_usage_errors_and_metadata() -> None:
    problems = (BatchProblem("invalid_json_line", "bad", line=3, param="body"),)
    batch = make_batch(State.FAILED, problems=problems, problem_count=1, metadata={"k": "v"})
    shown = render_batch(batch, Counts(5, 2, 1, Usage(10, 4, 3)))
    assert shown["request_counts"] == {"total": 5, "completed": 2, "failed": 1}
    assert shown["usage"]["total_tokens"] == 14
    assert shown["usage"]["input_tokens_details"] == {"cached_tokens": 3}
    problem = {"code": "invalid_json_line", "message": "bad", "param": "body", "line": 3}
    assert shown["errors"] == {"object": "list", "data": [problem]}
    shown = render_batch(msgspec.structs.replace(batch, problem_count=5), Counts())
    rest = {"code": "more_problems", "message": "There are 4 more problems.", "param": None, "line": None}
    assert shown["errors"]["data"] == [problem, rest]
    assert shown["metadata"] == {"k": "v"}
    assert render_batch(make_batch(State.COMPLETED), Counts())["errors"] is None


def test_a_page_says_whether_there_are_more() -> None:
    assert render_list([], has_more=False) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    page = render_list([{"id": "a"}, {"id": "b"}], has_more=True)
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", True)


def test_an_answered_line_holds_the_engines_own_bytes() -> None:
    body = b'{"b" : 1.0}'
    line = render_output_line("b-1", 4, b'"id"', 200, body)
    assert b'"body":' + body in line
    decoded = json.loads(line)
    assert decoded["error"] is None
    assert decoded["id"].startswith("batch_req_")
    assert decoded["response"]["request_id"].startswith("req_")


def test_a_refused_line_keeps_its_http_form() -> None:
    body = b'{"error":{"message":"m","type":"t","param":null,"code":null}}'
    line = json.loads(render_error_line("b-1", 0, b'"a"', Outcome.REFUSED, 400, body))
    assert line["error"] is None
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["message"] == "m"
    flat = json.loads(render_error_line("b-1", 0, b'"a"', Outcome.REFUSED, 422, b'{"detail":"no"}'))
    assert flat["response"]["body"]["error"]["message"] == "no"


@pytest.mark.parametrize(("code", "shown"), [("timeout", "request_timeout"), ("server_error", "server_error")])
def test_a_lost_line_has_a_code_and_no_response(code: str, shown: str) -> None:
    body = json.dumps({"error": {"message": "m", "type": "server_error", "code": code}}).encode()
    line = json.loads(render_error_line("b-1", 0, b'"a"', Outcome.EXHAUSTED, 0, body))
    assert line["response"] is None
    assert line["error"] == {"code": shown, "message": "m"}


@pytest.mark.parametrize(("state", "code"), [(State.EXPIRING, "batch_expired"), (State.CANCELLING, "batch_cancelled")])
def test_lines_left_over_say_why(state: State, code: str) -> None:
    line = json.loads(render_rest_line("b-1", 0, b'"a"', state))
    assert (line["response"], line["error"]["code"]) == (None, code)


@pytest.mark.parametrize("state", list(State))
def test_why_it_waits_is_told_only_while_it_can_wait(state: State) -> None:
    waiting = Waiting(WaitReason.STORE, "the disk is full", 1_750_000_001_000)
    shown = render_batch(make_batch(state), Counts(), waiting)
    told = {"reason": "store_unavailable", "message": "the disk is full", "since": 1_750_000_001}
    if state is State.PAUSED:
        # Whatever else is the matter.
        assert shown["waiting"]["reason"] == "paused"
    else:
        assert shown.get("waiting") == (None if state.is_final else told)
