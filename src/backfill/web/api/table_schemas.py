"""The answers about tables as models: what the OpenAPI document says of them, and what tests hold them against."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backfill.web.api.schemas import FileAnswer

__all__ = ["TableAnswer", "TablePreview", "TableRequests"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TableAnswer(_Answer):
    """What an uploaded table is."""

    object: Literal["table"]
    file_id: str
    format: Literal["CSV", "TSV", "JSON lines", "Parquet"]
    columns: list[str]
    rows: int
    note: Annotated[str | None, Field(description="What was assumed of the file.")]
    first_rows: Annotated[
        list[list[str | None]],
        Field(description="Of the first 50 columns, as text of 200 characters at most; null for what has no text."),
    ]


class _LeftOut(_Answer):
    row: Annotated[int, Field(description="From 1.")]
    message: str


class TableRequests(_Answer):
    """A file of requests that was made of a table."""

    object: Literal["table.requests"]
    file: FileAnswer
    left_out_count: Annotated[int, Field(description="Rows about which nothing can be asked.")]
    left_out: Annotated[list[_LeftOut], Field(description="The first 20 of them.")]


class TablePreview(_Answer):
    """What a table would ask."""

    object: Literal["table.preview"]
    rows: int
    looked_at: Annotated[int, Field(description="How many of the rows, from the first on.")]
    requests: list[dict[str, Any]]
    left_out: Annotated[list[_LeftOut], Field(description="Of those that were looked at.")]
