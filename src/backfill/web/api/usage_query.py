"""What may be asked of usage and costs: the parameters of those routes, read as every client writes them."""

import functools
import time
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_origin

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backfill.errors import InvalidInput
from backfill.web.api.errors import explain_validation

__all__ = [
    "HOURS_A_DAY",
    "CostsQuery",
    "Span",
    "SummaryQuery",
    "UsageQuery",
    "describe_query",
    "find_span",
    "read_query",
]

HOURS_A_DAY = 24
_HOUR_S = 3600
_LATEST_S = 253_402_300_799
_PAGE = r"^page_[0-9]{1,9}$"
_MOST_NAMES = 100

_Seconds = Annotated[int, Field(ge=0, le=_LATEST_S)]
_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=_MOST_NAMES)]


class _Buckets(BaseModel):
    model_config = ConfigDict(extra="ignore")

    start_time: Annotated[_Seconds, Field(description="Unix time in seconds, cut to the whole bucket.")]
    end_time: Annotated[_Seconds | None, Field(description="The first second that is not meant; now.")] = None
    api_key_ids: Annotated[_Names, Field(description="Only what these keys used.")] = []
    project_ids: Annotated[_Names, Field(description="Only what these owners used; as user_ids.")] = []
    user_ids: Annotated[_Names, Field(description="Only what these owners used.")] = []
    page: Annotated[str | None, Field(pattern=_PAGE, description="`next_page` of the page before.")] = None


class UsageQuery(_Buckets):
    """Of `GET /v1/organization/usage/…`."""

    bucket_width: Annotated[Literal["1h", "1d"], Field(description="Minutes are not kept: 1m is a 400.")] = "1d"
    group_by: Annotated[
        list[Literal["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"]],
        Field(description="One result for each combination."),
    ] = []
    models: Annotated[_Names, Field(description="Only what these models computed.")] = []
    batch: Annotated[bool | None, Field(description="false: nothing, since usage of live requests is not kept.")] = None
    limit: Annotated[int | None, Field(ge=1, le=168, description="Buckets: up to 31 days, or 168 hours.")] = None


class CostsQuery(_Buckets):
    """Of `GET /v1/organization/costs`."""

    bucket_width: Literal["1d"] = "1d"
    group_by: Annotated[
        list[Literal["project_id", "user_id", "api_key_id", "line_item", "api_source"]],
        Field(description="One result for each combination."),
    ] = []
    line_items: Annotated[_Names, Field(description="Only these, as `line_item` names them.")] = []
    limit: Annotated[int, Field(ge=1, le=180, description="Buckets.")] = 7


class SummaryQuery(BaseModel):
    """Of `GET /v1/usage`."""

    model_config = ConfigDict(extra="ignore")

    by: Annotated[
        list[Literal["hour", "day", "model", "key", "owner", "batch"]],
        Field(max_length=6, description="One row for each combination; none: the total alone."),
    ] = []
    start_time: Annotated[_Seconds | None, Field(description="Unix time, cut to the hour; 30 days ago.")] = None
    end_time: Annotated[_Seconds | None, Field(description="The first second that is not meant; now.")] = None
    models: Annotated[_Names, Field(description="Only what these models computed.")] = []
    key_ids: Annotated[_Names, Field(description="Only what these keys used.")] = []
    owners: Annotated[_Names, Field(description="Only what these owners used.")] = []
    batch_ids: Annotated[_Names, Field(description="Only what these batches used.")] = []
    limit: Annotated[int, Field(ge=1, le=10_000, description="Rows; the total is of all in any case.")] = 1000


_Query = TypeVar("_Query", bound=BaseModel)


def read_query(request: Request, kind: type[_Query]) -> _Query:
    """The parameters of a request; lists as `a[]=1&a[]=2`, `a=1&a=2` or `a=1,2`."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        plain = name.removesuffix("[]")
        if plain in _find_lists(kind):
            # Line items have a comma in their names.
            parts = [value] if name.endswith("[]") or name == "line_items" else value.split(",")
            # An empty name is refused with the others: passed over, it would ask for everything.
            given.setdefault(plain, []).extend(parts)
        else:
            given[plain] = value
    if given.get("bucket_width") == "1m" and kind is UsageQuery:
        message = "Usage is kept by the hour: bucket_width must be '1h' or '1d'."
        raise InvalidInput(message, param="bucket_width", code="unsupported_bucket_width")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


class Span(NamedTuple):
    """Whole hours from one to before the other."""

    since_hour: int
    until_hour: int


def find_span(start_s: int, end_s: int | None, width_h: int) -> Span:
    """The hours of whole buckets that the times touch; raises InvalidInput if the end is not behind the start."""
    until_s = int(time.time()) + 1 if end_s is None else end_s
    if end_s is not None and end_s <= start_s:
        raise InvalidInput("end_time must be after start_time.", param="end_time")
    width_s = width_h * _HOUR_S
    return Span(start_s // width_s * width_h, max(-(-until_s // width_s), start_s // width_s + 1) * width_h)


@functools.cache
def _find_lists(kind: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, field in kind.model_fields.items() if get_origin(field.annotation) is list)


def describe_query(kind: type[BaseModel]) -> tuple[dict[str, Any], ...]:
    """The parameters as the OpenAPI document tells of them."""
    schema = kind.model_json_schema()
    required = set(schema.get("required", ()))
    found = []
    for name, each in schema["properties"].items():
        told = {key: value for key, value in each.items() if key not in {"title", "description", "default"}}
        if "anyOf" in told:
            # A parameter that is not there is left out, and never null.
            told = next(one for one in told["anyOf"] if one != {"type": "null"})
        parameter = {"name": name, "in": "query", "required": name in required, "schema": told}
        found.append(parameter | ({"description": each["description"]} if "description" in each else {}))
    return tuple(found)
