"""Together's dialect: the shapes of files, batches, result lines and errors, as its clients need them.

The facts stand in docs/wire.md. Extra members are tolerated by every client; missing or null ones are not.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, Outcome, State
from backfill.status import Waiting
from backfill.wire.error_bodies import decode_error_body
from backfill.wire.names import name_batch
from backfill.wire.own_webhook import render_own_webhook
from backfill.wire.reuse import render_reuse
from backfill.wire.waiting import render_waiting

__all__ = [
    "PURPOSES",
    "render_batch",
    "render_error",
    "render_error_line",
    "render_file",
    "render_output_line",
    "render_rest_line",
]

PURPOSES = ("batch-api",)

# Clients know six statuses; what is being gathered is still in progress to them, and they stop polling at a final one.
_STATUS = {
    State.VALIDATING: "VALIDATING",
    State.IN_PROGRESS: "IN_PROGRESS",
    State.PAUSED: "IN_PROGRESS",
    State.FINALIZING: "IN_PROGRESS",
    State.CANCELLING: "IN_PROGRESS",
    State.EXPIRING: "IN_PROGRESS",
    State.FAILING: "IN_PROGRESS",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
    State.EXPIRED: "EXPIRED",
}
_EXPIRED_LINE = ("batch_expired", "This request could not be executed before the batch's deadline.")
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


def render_file(file: File) -> dict[str, Any]:
    """A file, with every member that some released client insists on."""
    sealed = file.status is FileStatus.SEALED
    return {
        "id": file.id,
        "object": "file",
        "created_at": file.created_at_ms // 1000,
        "filename": file.filename,
        "bytes": file.size_bytes,
        "purpose": file.purpose,
        "FileType": "jsonl",
        "Processed": sealed,
        "LineCount": file.line_count,
        "processing_status": None,
        "status": "processed" if sealed else "uploaded",
    }


def render_batch(batch: Batch, counts: Counts, waiting: Waiting | None = None) -> dict[str, Any]:
    """A batch, not wrapped. `progress` is a percentage and never null."""
    done_share = counts.done / counts.total if counts.total else 0.0
    finished = batch.state is State.COMPLETED
    return {
        "id": batch.id,
        "user_id": batch.owner,
        "input_file_id": batch.input_file_id,
        "file_size_bytes": batch.input_size_bytes,
        "status": _STATUS[batch.state],
        "job_deadline": _render_time(batch.deadline_at_ms),
        "created_at": _render_time(batch.created_at_ms),
        "endpoint": batch.endpoint,
        "name": batch.name,
        "on_invalid_lines": "error_file" if batch.skips_invalid_lines else "fail",
        "progress": 100.0 if finished else round(100.0 * done_share, 2),
        "model_id": batch.model_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "error": _render_problems(batch.problems, batch.problem_count),
        "completed_at": _render_time(batch.ended_at_ms) if batch.ended_at_ms is not None else None,
        "request_counts": {"total": counts.total, "completed": counts.answered, "failed": counts.failed},
        **({"metadata": batch.metadata} if batch.metadata else {}),
        **render_reuse(counts),
        **render_own_webhook(batch),
        **render_waiting(batch, waiting, _render_time),
    }


def render_output_line(batch_id: str, line: int, custom_id_json: bytes, status: int, body: bytes) -> bytes:
    """One line of the output file around the engine's own bytes."""
    return b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"body":%b}}\n' % (
        _result_id(batch_id, line),
        custom_id_json,
        status,
        body,
    )


def render_error_line(
    _batch_id: str, _line: int, custom_id_json: bytes, outcome: Outcome, status: int, body: bytes
) -> bytes:
    """One line of the error file, from the engine's refusal or the last loss."""
    message, code, number = _read_error(body)
    if code is None:
        code = f"http_{status}" if outcome is Outcome.REFUSED else "server_error"
    return _error_line(custom_id_json, message, code, number)


def render_rest_line(_batch_id: str, _line: int, custom_id_json: bytes, state: State) -> bytes:
    """One line of the error file for a request that a cancel or a deadline left undone."""
    code, message = _REST.get(state, _LOST_LINE)
    return _error_line(custom_id_json, message, code)


def render_error(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The error object; `code` and `type` are strings or null in every answer, as the oldest client demands."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _error_line(custom_id_json: bytes, message: str, code: str, number: int | None = None) -> bytes:
    """`number`: of a line of the input that is no request, where it stands, from 1."""
    error = msgspec.json.encode({"message": message, "code": code} | ({} if number is None else {"line": number}))
    return b'{"custom_id":%b,"error":%b}\n' % (custom_id_json, error)


def _read_error(body: bytes) -> tuple[str, str | None, int | None]:
    """Message and code out of the many forms in which engines say what is wrong, and the line that we say it of."""
    decoded = decode_error_body(body)
    error = decoded.get("error", decoded)
    if not isinstance(error, dict):
        return str(error), None, None
    message = error.get("message") or error.get("detail")
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), None)
    number = error.get("line")
    text = message if isinstance(message, str) else msgspec.json.encode(error).decode()
    return text, code, number if type(number) is int else None


def _result_id(batch_id: str, line: int) -> bytes:
    """The same for the same line whenever it is rendered."""
    return b"br_%b%011d" % (name_batch(batch_id), line)


def _render_time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _render_problems(problems: tuple[BatchProblem, ...], count: int) -> str | None:
    """One string, since an object breaks a released client: every kept problem, and how many more there are."""
    if not problems:
        return None
    told = "; ".join(f"line {each.line}: {each.message}" if each.line else each.message for each in problems)
    more = count - len(problems)
    return f"{told}; and {more} more" if more > 0 else told
