"""Result lines in the dialect of their batch, so that every reader sees one line where there is one.

JSON allows U+2028, U+2029 and U+0085 inside a string, but many readers end a line there (Python's `splitlines` and
`iter_lines` of most clients). They are escaped, wherever they stand: in answers, errors and custom ids. No other byte
of an engine's answer is changed.
"""

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
_SEPARATORS = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}


def render_answer(batch: Batch, line: int, custom_id_json: bytes, status: int, body: bytes) -> bytes:
    """An answered line, around the engine's own bytes."""
    rendered = _DIALECTS[batch.dialect].render_output_line(batch.id, line, custom_id_json, status, body)
    return rendered if rendered.isascii() else _keep_whole(rendered)


def render_failure(batch: Batch, line: int, custom_id_json: bytes, outcome: Outcome, status: int, body: bytes) -> bytes:
    """A line that the engine refused, or whose every try was lost."""
    return _keep_whole(
        _DIALECTS[batch.dialect].render_error_line(batch.id, line, custom_id_json, outcome, status, body)
    )


def render_rest(batch: Batch, line: int, custom_id_json: bytes) -> bytes:
    """A line that a cancel or a deadline left undone."""
    return _keep_whole(_DIALECTS[batch.dialect].render_rest_line(batch.id, line, custom_id_json, batch.state))


def _keep_whole(line: bytes) -> bytes:
    # None of the three can be part of another character.
    if not line.isascii():
        for separator, escape in _SEPARATORS.items():
            line = line.replace(separator, escape)
    return line
