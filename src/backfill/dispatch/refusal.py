"""What is said of a line that Backfill itself refuses, or gives up."""

import msgspec

from backfill.batch import BatchProblem

__all__ = ["render_failure", "render_refusal"]


def render_refusal(problem: BatchProblem) -> bytes:
    """As an engine says it, whatever the dialect of the batch."""
    error: dict[str, object] = {
        "message": problem.message,
        "type": "invalid_request_error",
        "param": problem.param,
        "code": problem.code,
    }
    if problem.line is not None:
        # Of a line that is no request nobody else can say which one it is.
        error |= {"message": f"Line {problem.line}: {problem.message}", "line": problem.line}
    return msgspec.json.encode({"error": error})


def render_failure(message: str, code: str) -> bytes:
    """The error object of a line that came to nothing, and not for what stands in it."""
    return msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": code}})
