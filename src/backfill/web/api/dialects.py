"""Which dialect a request is answered in: one rule, in one place.

1. Under `/together/v1` and `/openai/v1` it is the one that the path names.
2. Under plain `/v1`, what a batch or its input file is about decides: a file of purpose `batch-api` makes a batch of
   Together's dialect, one of purpose `batch` a batch of OpenAI's, and a batch keeps the dialect it was made in.
3. A list of batches has no file to look at: there the client decides, by its User-Agent, or else by paging
   (`limit` or `after` in the query), which only OpenAI's clients do. Files look the same in both, on plain `/v1`.
   So it does for a batch whose requests stand in its create call; for a client of no name that is Together's.
4. A list of models is a bare array for Together's own clients; all others, of whatever name, know OpenAI's list.
"""

from typing import Any

from fastapi import Request

from backfill.accounts import cost_of
from backfill.batch import Batch, Dialect, File, Standing
from backfill.config import MoneyConfig
from backfill.purposes import OPAQUE_PURPOSES
from backfill.status import Forecast, Waiting
from backfill.wire import openai, together
from backfill.wire.forecast import render_forecast

__all__ = [
    "allowed_purposes",
    "dialect_of_file",
    "dialect_of_list",
    "dialect_of_models",
    "dialect_of_requests",
    "named_dialect",
    "render_batch",
    "render_file",
    "wants_whole_pricing",
]

_PURPOSES = {Dialect.TOGETHER: together.PURPOSES, Dialect.OPENAI: openai.PURPOSES}
_AGENTS = {
    "Together": Dialect.TOGETHER,
    "AsyncTogether": Dialect.TOGETHER,
    "OpenAI": Dialect.OPENAI,
    "AsyncOpenAI": Dialect.OPENAI,
}


def named_dialect(request: Request) -> Dialect | None:
    """The dialect that the path names; None under plain `/v1`."""
    dialect: Dialect | None = request.scope.get("backfill.dialect")
    return dialect


def allowed_purposes(request: Request) -> tuple[str, ...]:
    """The purposes that an upload may have here; what is no file of requests has the same in both dialects."""
    dialect = named_dialect(request)
    return (_PURPOSES[dialect] if dialect else together.PURPOSES + openai.PURPOSES) + OPAQUE_PURPOSES


def dialect_of_file(request: Request, file: File) -> Dialect:
    """The dialect of a batch that is made of `file`."""
    by_purpose = Dialect.OPENAI if file.purpose in openai.PURPOSES else Dialect.TOGETHER
    return named_dialect(request) or by_purpose


def dialect_of_requests(request: Request) -> Dialect:
    """The dialect of a batch whose requests stand in its create call."""
    return named_dialect(request) or _dialect_of_client(request) or Dialect.TOGETHER


def dialect_of_list(request: Request) -> Dialect:
    """The shape in which this client expects a list of batches."""
    pages = Dialect.OPENAI if {"limit", "after"} & set(request.query_params) else Dialect.TOGETHER
    return named_dialect(request) or _dialect_of_client(request) or pages


def dialect_of_models(request: Request) -> Dialect:
    """The shape in which this client expects the list of models."""
    return named_dialect(request) or _dialect_of_client(request) or Dialect.OPENAI


def wants_whole_pricing(request: Request) -> bool:
    """Whether this client can do nothing with a price of which a part is not known (`wire.models`)."""
    is_first_major = request.headers.get("user-agent", "").startswith("Together/v1 ")
    return dialect_of_models(request) is Dialect.TOGETHER and not is_first_major


def _dialect_of_client(request: Request) -> Dialect | None:
    return _AGENTS.get(request.headers.get("user-agent", "").partition("/")[0])


def render_file(request: Request, file: File) -> dict[str, Any]:
    """A file; under plain `/v1` with the members of both dialects, which no client minds."""
    match named_dialect(request):
        case Dialect.TOGETHER:
            return together.render_file(file)
        case Dialect.OPENAI:
            return openai.render_file(file)
        case None:
            return openai.render_file(file) | together.render_file(file)


def render_batch(
    dialect: Dialect,
    batch: Batch,
    standing: Standing,
    waiting: Waiting | None,
    forecast: Forecast | None,
    money: MoneyConfig,
) -> dict[str, Any]:
    """A batch in the given dialect, with what it costs so far, and when it will be done."""
    render = openai.render_batch if dialect is Dialect.OPENAI else together.render_batch
    shown = render(batch, standing.counts, waiting) | render_forecast(dialect, forecast)
    return shown | {"cost": cost_of(batch, standing.usage, money)}
