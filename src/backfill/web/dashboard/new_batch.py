"""A new batch from a file: what is in it, what is wrong with it, what it would take, and the start."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from backfill.api_key import Caller
from backfill.batch import Batch, Dialect, File, FileStatus, Reservation, State, fit_to_endpoint
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import new_file_id
from backfill.purposes import TABLE_PURPOSE
from backfill.tables import LOOK_BYTES, holds_requests
from backfill.turns import Attempt, BatchRequest, check_endpoint, judge, now_ms
from backfill.web.api.batch_members import NAME_LENGTH_MAX, find_name
from backfill.web.api.file_limits import find_limits
from backfill.web.api.uploads import clean_filename
from backfill.web.dashboard.house import House
from backfill.web.dashboard.wording import name_range
from backfill.wire import parse_window
from backfill.wire.estimates import render_estimate
from backfill.wire.forecast import warn_of_lateness

__all__ = [
    "PURPOSE",
    "check_window",
    "describe_file",
    "estimate",
    "read_name",
    "read_once",
    "read_order",
    "receive_file",
]

PURPOSE = "batch-api"
"""Of files of requests that are made here."""
_CHAT = "/v1/chat/completions"
_PROBLEMS_SHOWN = 50


async def receive_file(house: House, caller: Caller, filename: str, pieces: AsyncIterator[bytes]) -> File:
    """Take an upload as the API does, of requests or of a table; raises InvalidInput, TooLarge, StoreUnavailable."""
    intake, name = house.services.intake, clean_filename(filename)
    beginning = await _read_beginning(pieces)
    purpose = PURPOSE if holds_requests(beginning, name) else TABLE_PURPOSE
    upload = intake.begin(new_file_id(), find_limits(intake, caller), purpose)
    try:
        await upload.feed(beginning)
        async for piece in pieces:
            await upload.feed(piece)
        draft = File(
            id=upload.file_id,
            owner=caller.owner,
            filename=name,
            purpose=purpose,
            status=FileStatus.RESERVED,
            created_at_ms=now_ms(),
        )
        file = await upload.seal(draft)
    finally:
        upload.abort()
    if file.purpose == TABLE_PURPOSE:
        try:
            await intake.tables.open(file)
        except InvalidInput:
            # Nobody could do anything with it, or see that it is here.
            await intake.remove(file.id)
            raise
    return file


async def _read_beginning(pieces: AsyncIterator[bytes]) -> bytes:
    """So much that one sees what it is."""
    found = b""
    async for piece in pieces:
        found += piece
        if len(found) >= LOOK_BYTES:
            break
    return found


async def describe_file(house: House, caller: Caller, file: File) -> dict[str, Any]:
    """What can be made of the file: the endpoint that most of its lines fit, what is wrong, what it would take."""
    survey = msgspec.json.decode(file.survey, type=Survey)
    served = sorted({endpoint for model in await house.services.list_models() for endpoint in model.endpoints})
    verdicts = {endpoint: judge(survey, endpoint, "any", problems_shown=_PROBLEMS_SHOWN) for endpoint in served}
    fitting = [name for name, verdict in verdicts.items() if verdict.of_requests.problem_count < survey.lines]
    chosen = next((endpoint for endpoint in (_CHAT, *fitting) if endpoint in fitting), None)
    verdict = verdicts[chosen] if chosen else judge(survey, _CHAT, "any", problems_shown=_PROBLEMS_SHOWN)
    models = [model.id for model in await house.services.list_models()]
    limits = house.services.config.limits
    return {
        "file": file,
        "survey": survey,
        "endpoints": fitting,
        "chosen": chosen,
        "problems": verdict.reasons.problems,
        "problem_count": verdict.reasons.problem_count,
        "fails": verdict.fails or chosen is None,
        "estimate": await estimate(house, caller, survey, chosen) if chosen else None,
        "models": models,
        "default_window": f"{limits.window_h:g}h",
        "windows": [f"{limits.window_min_h:g}h", f"{limits.window_max_h:g}h"],
    }


def read_order(house: House, caller: Caller, file: File, form: Mapping[str, str]) -> BatchRequest:
    """The batch that the form asks for; raises InvalidInput."""
    window, token = form.get("window", "").strip(), read_once(form.get("once", ""))
    check_window(house, window)
    return BatchRequest(
        owner=caller.owner,
        key_id=caller.key_id,
        endpoint=check_endpoint(form.get("endpoint", ""), house.services.config.listed_endpoints),
        input_file_id=file.id,
        file=file,
        completion_window=window or None,
        model_id=form.get("model", "").strip() or None,
        name=read_name(form.get("name", "")),
        dialect=Dialect.TOGETHER,
        # The button pressed twice, or the page sent again, makes one batch.
        attempt=Attempt(digest=f"dashboard {file.id}", key=f"dashboard-{token}"),
    )


def read_name(text: str) -> str | None:
    """The name of a batch, if one was written; raises InvalidInput."""
    if len(text.strip()) > NAME_LENGTH_MAX:
        raise InvalidInput(f"A name has {NAME_LENGTH_MAX} characters at most.", param="name")
    return find_name(text, None)


def read_once(token: str) -> str:
    """What tells this form from others; raises InvalidInput."""
    if not 1 <= len(token) <= 255:
        raise InvalidInput("The form is not whole; open the page again.", param="once")
    return token


def check_window(house: House, window: str) -> int:
    """How long the window is, in ms, the server's own if none was written; raises InvalidInput."""
    limits = house.services.config.limits
    written = window.strip() or f"{limits.window_h:g}h"
    return parse_window(written, limits.window_min_h, limits.window_max_h)


async def estimate(
    house: House, caller: Caller, survey: Survey, endpoint: str, window_ms: int | None = None
) -> dict[str, Any]:
    """What such lines would take and cost, and when a batch of them would be done that was made now."""
    now, catalogue = now_ms(), house.services.catalogue
    window_ms = window_ms or check_window(house, "")
    needs = survey.needs or {"": Reservation(survey.lines, 0, survey.token_estimate)}
    reserved = {model: fit_to_endpoint(need, endpoint) for model, need in needs.items()}
    batch = Batch(
        id="estimate",
        owner=caller.owner,
        endpoint=endpoint,
        input_file_id="",
        input_size_bytes=0,
        state=State.VALIDATING,
        created_at_ms=now,
        deadline_at_ms=now + window_ms,
        reserved=reserved,
    )
    forecast = await house.services.foresee(batch)
    return {
        **render_estimate(reserved, {model: catalogue.price(model) for model in reserved}, endpoint),
        "expected": name_range(now, forecast.done_at_ms)[0] if forecast else None,
        "warning": warn_of_lateness(batch, forecast),
    }
