"""OpenAI's dialect: the shapes of files, batches, lists, result lines and errors.

Times are Unix seconds, statuses lower case, and every member is there, null where it does not apply.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, Outcome, State
from backfill.status import Waiting
from backfill.wire.error_bodies import decode_error_body
from backfill.wire.names import name_batch
from backfill.wire.reuse import render_reuse
from backfill.wire.waiting import render_waiting

__all__ = [
    "PURPOSES",
    "render_batch",
    "render_error_line",
    "render_file",
    "render_list",
    "render_output_line",
    "render_rest_line",
    "render_upload",
    "render_upload_part",
]

PURPOSES = ("batch",)

_STATUS = {
    **{state: state.value for state in State},
    State.PAUSED: "in_progress",
    State.EXPIRING: "finalizing",
    State.FAILING: "finalizing",
}
_EXPIRED_MESSAGE = "This request could not be executed before the completion window expired."
_EXPIRED_LINE = ("batch_expired", _EXPIRED_MESSAGE)
_CANCELLED_LINE = ("batch_cancelled", "This request was not executed: the batch was cancelled.")
_FAILED_LINE = ("batch_failed", "This request was not executed: the batch failed, and says why.")
_REST = {
    State.EXPIRING: _EXPIRED_LINE,
    State.EXPIRED: _EXPIRED_LINE,
    State.CANCELLING: _CANCELLED_LINE,
    State.CANCELLED: _CANCELLED_LINE,
    State.FAILING: _FAILED_LINE,
    State.FAILED: _FAILED_LINE,
}
_LOST_LINE = ("internal_error", "This request has no recorded outcome.")
# Which time stamp tells when a batch in this state began to gather, and when it ended.
_CLOSING_STAMP = {
    State.FINALIZING: "finalizing_at",
    State.COMPLETED: "finalizing_at",
    State.EXPIRING: "finalizing_at",
    State.EXPIRED: "finalizing_at",
    State.FAILING: "finalizing_at",
    State.CANCELLING: "cancelling_at",
    State.CANCELLED: "cancelling_at",
}
_END_STAMP = {
    State.COMPLETED: "completed_at",
    State.FAILED: "failed_at",
    State.EXPIRED: "expired_at",
    State.CANCELLED: "cancelled_at",
}


def render_file(file: File) -> dict[str, Any]:
    """A file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at_ms // 1000,
        "expires_at": _render_time(file.expires_at_ms),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed" if file.status is FileStatus.SEALED else "uploaded",
        "status_details": None,
    }


def render_batch(batch: Batch, counts: Counts, waiting: Waiting | None = None) -> dict[str, Any]:
    """A batch with its time stamps, counts and usage."""
    stamps: dict[str, int | None] = dict.fromkeys(sorted({*_CLOSING_STAMP.values(), *_END_STAMP.values()}))
    if batch.state in _CLOSING_STAMP:
        stamps[_CLOSING_STAMP[batch.state]] = _render_time(batch.closing_at_ms)
    if batch.state in _END_STAMP:
        stamps[_END_STAMP[batch.state]] = _render_time(batch.ended_at_ms)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "name": batch.name,
        "on_invalid_lines": "error_file" if batch.skips_invalid_lines else "fail",
        "model": batch.model_id,
        "errors": _render_problems(batch.problems, batch.problem_count),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": _STATUS[batch.state],
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _render_time(batch.created_at_ms),
        "in_progress_at": _render_time(batch.started_at_ms),
        "expires_at": _render_time(batch.deadline_at_ms),
        **stamps,
        "request_counts": {"total": counts.total, "completed": counts.answered, "failed": counts.failed},
        "usage": {
            "input_tokens": counts.usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counts.usage.cached_tokens},
            "output_tokens": counts.usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts.usage.prompt_tokens + counts.usage.completion_tokens,
        },
        "metadata": batch.metadata,
        **render_reuse(counts),
        **render_waiting(batch, waiting, _render_time),
    }


def render_upload(upload_id: str, file: File, *, size_bytes: int, expires_at_ms: int, status: str) -> dict[str, Any]:
    """An upload in parts; once it is completed, with its file."""
    return {
        "id": upload_id,
        "object": "upload",
        "bytes": size_bytes,
        "created_at": file.created_at_ms // 1000,
        "expires_at": expires_at_ms // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": status,
        "file": render_file(file) if file.status is FileStatus.SEALED else None,
    }


def render_upload_part(part_id: str, upload_id: str, created_at_ms: int) -> dict[str, Any]:
    """A part that was received."""
    return {
        "id": part_id,
        "object": "upload.part",
        "created_at": created_at_ms // 1000,
        "upload_id": upload_id,
    }


def render_list(rendered: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """One page; clients go on for ever unless it says whether there are more."""
    return {
        "object": "list",
        "data": list(rendered),
        "first_id": rendered[0]["id"] if rendered else None,
        "last_id": rendered[-1]["id"] if rendered else None,
        "has_more": has_more,
    }


def render_output_line(batch_id: str, line: int, custom_id_json: bytes, status: int, body: bytes) -> bytes:
    """One line of the output file around the engine's own bytes."""
    return _answered_line(batch_id, line, custom_id_json, status, body)


def render_error_line(
    batch_id: str, line: int, custom_id_json: bytes, outcome: Outcome, status: int, body: bytes
) -> bytes:
    """One line of the error file: what the engine refused keeps its HTTP form; what was lost has a code."""
    if outcome is Outcome.REFUSED:
        return _answered_line(batch_id, line, custom_id_json, status, _complete_error(body))
    error = msgspec.json.decode(body)["error"]
    code = "request_timeout" if error["code"] == "timeout" else error["code"]
    return _unanswered_line(batch_id, line, custom_id_json, code, error["message"])


def render_rest_line(batch_id: str, line: int, custom_id_json: bytes, state: State) -> bytes:
    """One line of the error file for a request that a cancel or a deadline left undone."""
    code, message = _REST.get(state, _LOST_LINE)
    return _unanswered_line(batch_id, line, custom_id_json, code, message)


def _answered_line(batch_id: str, line: int, custom_id_json: bytes, status: int, body: bytes) -> bytes:
    name = _line_name(batch_id, line)
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":{"status_code":%d,"request_id":"req_%b","body":%b},'
        b'"error":null}\n' % (name, custom_id_json, status, name, body)
    )


def _unanswered_line(batch_id: str, line: int, custom_id_json: bytes, code: str, message: str) -> bytes:
    error = msgspec.json.encode({"code": code, "message": message})
    name = _line_name(batch_id, line)
    return b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":%b}\n' % (name, custom_id_json, error)


def _complete_error(body: bytes) -> bytes:
    """The engine's own bytes where they have an error object; readers look for `error.message` in any case."""
    decoded = decode_error_body(body)
    if isinstance(decoded.get("error"), dict):
        return body
    message = decoded.get("error") or decoded.get("message") or decoded.get("detail") or decoded
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": None}
    return msgspec.json.encode({"error": error})


def _line_name(batch_id: str, line: int) -> bytes:
    """The same for the same line whenever it is rendered."""
    return name_batch(batch_id) + b"%011d" % line


def _render_problems(problems: tuple[BatchProblem, ...], count: int) -> dict[str, Any] | None:
    """Every kept problem, and behind them how many more there are, in the only form that clients show."""
    if not problems:
        return None
    more = count - len(problems)
    rest = [BatchProblem("more_problems", f"There are {more} more problems.")] if more > 0 else []
    data = [
        {"code": problem.code, "message": problem.message, "param": problem.param, "line": problem.line}
        for problem in (*problems, *rest)
    ]
    return {"object": "list", "data": data}


def _render_time(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms // 1000
