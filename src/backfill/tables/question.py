"""What is asked about the rows of a table, as it is written down: in a request, and beside what was made of it."""

from typing import Any

import msgspec

from backfill.tables.answer_schema import AnswerSchema
from backfill.tables.answers import AnswerReader
from backfill.tables.requests import CHAT, RequestPlan

__all__ = ["Question", "choose_free"]

_ANSWER, _ERROR = "answer", "_error"


class Question(msgspec.Struct, frozen=True, omit_defaults=True, rename={"answer_schema": "schema"}):
    """All that decides which requests are made of a table, and which columns their answers become."""

    prompt: str = ""
    system: str | None = None
    columns: str | None = None
    """As `parse_columns` reads it."""
    answer_schema: dict[str, Any] | None = None
    """A JSON schema, in the place of `columns`."""
    endpoint: str = CHAT
    model: str | None = None
    parameters: dict[str, Any] = {}
    id_column: str | None = None
    image_column: str | None = None
    audio_column: str | None = None
    limit: int | None = None
    """Only so many rows, the first ones."""

    def make_schema(self) -> AnswerSchema | None:
        """The columns of answers, if any were named; raises InvalidInput."""
        if self.columns is not None:
            return AnswerSchema.of_columns(self.columns)
        return None if self.answer_schema is None else AnswerSchema.of_json_schema(self.answer_schema)

    def make_plan(self) -> RequestPlan:
        """What each row asks; raises InvalidInput."""
        return RequestPlan(
            prompt=self.prompt,
            system=self.system,
            schema=self.make_schema(),
            endpoint=self.endpoint,
            model=self.model,
            parameters=self.parameters,
            id_column=self.id_column,
            image_column=self.image_column,
            audio_column=self.audio_column,
        )

    def make_reader(self, taken: "list[str] | tuple[str, ...]" = ()) -> AnswerReader:
        """What becomes of answers; columns that nobody named get names that are not `taken`."""
        return AnswerReader(
            self.make_schema(),
            self.endpoint,
            choose_free(_ANSWER, taken),
            choose_free(_ERROR, taken),
            with_usage=True,
            with_latency=False,
        )


def choose_free(name: str, taken: "list[str] | tuple[str, ...]") -> str:
    """The name, or with a number behind it if it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
