"""Tables: what an uploaded one is, and the requests that are made of its rows."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from backfill.batch import Dialect
from backfill.errors import InvalidInput
from backfill.intake import LeftOut, make_requests, preview_requests
from backfill.tables import CHAT, TABLE_ENDPOINTS, Question
from backfill.turns import check_endpoint, now_ms
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.dialects import named_dialect, render_file
from backfill.web.api.errors import explain_validation
from backfill.web.api.file_limits import find_limits
from backfill.web.api.keys import CallerOf, Owner
from backfill.web.api.services import ServicesOf
from backfill.wire import openai, together

__all__ = ["MakeRequests", "router"]

_BODY_BYTES_MAX = 1 << 20
_ROWS_SHOWN_MAX = 100
_PURPOSES = {Dialect.TOGETHER: together.PURPOSES[0], Dialect.OPENAI: openai.PURPOSES[0]}

router = APIRouter()

_Column = Annotated[str, Field(max_length=1024)] | None


class MakeRequests(BaseModel):
    """The body of POST /v1/files/{file_id}/requests."""

    # What is asked wrongly of thousands of rows costs: a member that is not known is an error here.
    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(description="`{name}` stands for the value of a column.")] = ""
    system: str | None = None
    columns: Annotated[str | None, Field(description="Of answers: `label:enum(pos,neg), score:float`.")] = None
    answer_schema: Annotated[dict[str, Any] | None, Field(alias="schema", description="Instead of columns.")] = None
    endpoint: Annotated[str, Field(json_schema_extra={"examples": list(TABLE_ENDPOINTS)})] = CHAT
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    parameters: Annotated[dict[str, Any], Field(description="Members of each request, such as temperature.")] = {}
    id_column: _Column = None
    image_column: _Column = None
    audio_column: _Column = None
    limit: Annotated[int, Field(ge=1, description="Only the first rows.")] | None = None
    purpose: Literal["batch", "batch-api"] | None = None
    preview: Annotated[int, Field(ge=1, le=_ROWS_SHOWN_MAX, description="Make nothing; show so many.")] | None = None

    def ask(self) -> Question:
        """What is asked; raises InvalidInput for an endpoint that there is not."""
        given = self.model_dump(exclude={"purpose", "preview"}) | {"endpoint": check_endpoint(self.endpoint)}
        return Question(**given)


@router.get("/v1/files/{file_id}/table")
async def get_table(
    file_id: str,
    services: ServicesOf,
    owner: Owner,
    rows: Annotated[int, Query(ge=0, le=_ROWS_SHOWN_MAX)] = 5,
) -> Response:
    """Form, columns and number of rows of an uploaded table, and its first rows."""
    file = await services.metadata.get_file(file_id, owner)
    facts = await services.intake.tables.describe(file, rows)
    return JsonResponse(
        {
            "object": "table",
            "file_id": file.id,
            "format": facts.form.value,
            "columns": facts.columns,
            "rows": facts.rows,
            "note": facts.note,
            "first_rows": facts.first,
        }
    )


@router.post("/v1/files/{file_id}/requests")
async def make_file_of_requests(file_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """A file of requests about the rows of an uploaded table; or with `preview` only the first of them."""
    wanted = _parse(await read_body(request, _BODY_BYTES_MAX))
    question = wanted.ask()
    source = await services.metadata.get_file(file_id, caller.owner)
    limits = find_limits(services.intake, caller)
    if wanted.preview is not None:
        found = await preview_requests(services.intake, source, question, limits, wanted.preview)
        return JsonResponse(
            {
                "object": "table.preview",
                "rows": found.rows,
                "looked_at": found.looked_at,
                "requests": [msgspec.Raw(line) for line in found.lines],
                "left_out": _render_left_out(found.left_out),
            }
        )
    purpose = wanted.purpose or _PURPOSES[named_dialect(request) or Dialect.TOGETHER]
    made = await make_requests(services.intake, source, question, purpose, limits, now_ms())
    return JsonResponse(
        {
            "object": "table.requests",
            "file": render_file(request, made.file),
            "left_out_count": made.left_out_count,
            "left_out": _render_left_out(made.left_out),
        }
    )


def _parse(body: bytes) -> MakeRequests:
    if not body.strip():
        raise InvalidInput("The body is empty; send a JSON object with a prompt.")
    try:
        return MakeRequests.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


def _render_left_out(rows: list[LeftOut]) -> list[dict[str, Any]]:
    return [{"row": each.row, "message": each.reason} for each in rows]
