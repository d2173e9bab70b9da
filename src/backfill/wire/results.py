"""Result lines in the dialect of their batch."""

from typing import Protocol

from backfill.batch import Batch, Dialect, Outcome, State
from backfill.wire import openai, together

__all__ = ["OUTPUT_PURPOSE", "render_answer", "render_failure", "render_rest"]


class _Renderer(Protocol):
    """What each dialect's module offers."""

    def render_output_line(self, batch_id: str, line: int, custom_id: bytes, status: int, body: bytes, /) -> bytes: ...

    def render_error_line(
        self, batch_id: str, line: int, custom_id: bytes, outcome: Outcome, status: int, body: bytes, /
    ) -> bytes: ...

    def render_rest_line(self, batch_id: str, line: int, custom_id: bytes, state: State, /) -> bytes: ...


_DIALECTS: dict[Dialect, _Renderer] = {Dialect.TOGETHER: together, Dialect.OPENAI: openai}
OUTPUT_PURPOSE = {Dialect.TOGETHER: "batch-api", Dialect.OPENAI: "batch_output"}
"""The purpose that output and error files have; Together's oldest client takes no other than that of the input."""


def render_answer(batch: Batch, line: int, custom_id_json: bytes, status: int, body: bytes) -> bytes:
    """An answered line, around the engine's own bytes."""
    return _DIALECTS[batch.dialect].render_output_line(batch.id, line, custom_id_json, status, body)


def render_failure(batch: Batch, line: int, custom_id_json: bytes, outcome: Outcome, status: int, body: bytes) -> bytes:
    """A line that the engine refused, or whose every try was lost."""
    return _DIALECTS[batch.dialect].render_error_line(batch.id, line, custom_id_json, outcome, status, body)


def render_rest(batch: Batch, line: int, custom_id_json: bytes) -> bytes:
    """A line that a cancel or a deadline left undone."""
    return _DIALECTS[batch.dialect].render_rest_line(batch.id, line, custom_id_json, batch.state)
