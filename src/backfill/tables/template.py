"""A prompt with places for columns: `Classify: {text}`, and nothing cleverer than that.

{name}      the value of the column; null becomes nothing
{{ and }}   a brace itself, in the text and in the name of a column, but not as the first character of a name
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backfill.errors import InvalidInput

__all__ = ["Template"]


@dataclass(frozen=True)
class Template:
    """Text with places; `columns` names what stands in them, one after the other, a column as often as it is used."""

    columns: tuple[str, ...]
    texts: tuple[str, ...]
    """What stands before, between and behind the places: one more than there are columns."""

    @classmethod
    def parse(cls, text: str, name: str = "prompt") -> "Template":
        """Read a template; raises InvalidInput, with the position, if braces do not match."""
        columns: list[str] = []
        texts: list[str] = []
        at = 0
        while True:
            literal, at = _read(text, at, "{", name)
            texts.append(literal)
            if at > len(text):
                return cls(tuple(columns), tuple(texts))
            start = at
            column, at = _read(text, at, "}", name)
            if at > len(text):
                raise _fault(name, start - 1, "{", "is never closed")
            columns.append(column)

    def fill(self, values: Sequence[str]) -> str:
        """The text with a value in each place."""
        parts = [self.texts[0]]
        for value, text in zip(values, self.texts[1:], strict=True):
            parts += (value, text)
        return "".join(parts)


def _read(text: str, start: int, end: str, name: str) -> tuple[str, int]:
    """What stands before the next single `end`, with double braces as one, and the position behind that."""
    found = []
    at = start
    while at < len(text):
        brace = text[at]
        if brace not in "{}":
            found.append(brace)
            at += 1
        elif text[at + 1 : at + 2] == brace:
            found.append(brace)
            at += 2
        elif brace == end:
            return "".join(found), at + 1
        else:
            raise _fault(name, at, brace, "opens nothing here" if brace == "{" else "closes nothing")
    return "".join(found), len(text) + 1


def _fault(name: str, at: int, brace: str, what: str) -> InvalidInput:
    message = (
        f"The {name} has a {brace!r} at character {at + 1} that {what}; a column is written {{name}}, "
        f"and a brace that is part of the text {brace * 2}."
    )
    return InvalidInput(message, param=name, code="bad_template")
