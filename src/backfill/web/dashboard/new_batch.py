"""A new batch from a file: what is in it, what is wrong with it, what it would take, and the start."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from backfill.api_key import Caller
from backfill.batch import Batch, Dialect, File, FileStatus, Reservation, State, fit_to_endpoint
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import new_file_id
from backfill.turns import Attempt, BatchRequest, check_endpoint, judge, now_ms
from backfill.web.api.file_limits import find_limits
from backfill.web.api.uploads import clean_filename
from backfill.web.dashboard.house import House
from backfill.web.dashboard.wording import name_range
from backfill.wire import parse_window
from backfill.wire.estimates import render_estimate
from backfill.wire.forecast import warn_of_lateness

__all__ = ["describe_file", "read_order", "receive_file"]

_PURPOSE = {Dialect.TOGETHER: "batch-api", Dialect.OPENAI: "batch"}
_CHAT = "/v1/chat/completions"
_NAME_LENGTH = 64
_PROBLEMS_SHOWN = 50


async def receive_file(house: House, caller: Caller, filename: str, pieces: AsyncIterator[bytes]) -> File:
    """Take an upload as the API does; raises InvalidInput, TooLarge, StoreUnavailable."""
    intake = house.services.intake
    upload = intake.begin(new_file_id(), find_limits(intake, caller))
    try:
        async for piece in pieces:
            await upload.feed(piece)
        draft = File(
            id=upload.file_id,
            owner=caller.owner,
            filename=clean_filename(filename),
            purpose=_PURPOSE[Dialect.TOGETHER],
            status=FileStatus.RESERVED,
            created_at_ms=now_ms(),
        )
        return await upload.seal(draft)
    finally:
        upload.abort()


async def describe_file(house: House, caller: Caller, file: File) -> dict[str, Any]:
    """What can be made of the file: the endpoint that most of its lines fit, what is wrong, what it would take."""
    survey = msgspec.json.decode(file.survey, type=Survey)
    served = sorted({endpoint for model in await house.services.list_models() for endpoint in model.endpoints})
    verdicts = {endpoint: judge(survey, endpoint, "any", problems_shown=_PROBLEMS_SHOWN) for endpoint in served}
    fitting = [name for name, verdict in verdicts.items() if verdict.of_requests.problem_count < survey.lines]
    chosen = next((endpoint for endpoint in (_CHAT, *fitting) if endpoint in fitting), None)
    verdict = verdicts[chosen] if chosen else judge(survey, _CHAT, "any", problems_shown=_PROBLEMS_SHOWN)
    estimate = await _estimate(house, caller, survey, chosen) if chosen else None
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
        "estimate": estimate,
        "models": models,
        "default_window": f"{limits.window_h:g}h",
        "windows": [f"{limits.window_min_h:g}h", f"{limits.window_max_h:g}h"],
    }


def read_order(house: House, caller: Caller, file: File, form: Mapping[str, str]) -> BatchRequest:
    """The batch that the form asks for; raises InvalidInput."""
    name, window = form.get("name", "").strip(), form.get("window", "").strip()
    if len(name) > _NAME_LENGTH:
        raise InvalidInput(f"A name has {_NAME_LENGTH} characters at most.", param="name")
    limits = house.services.config.limits
    if window:
        parse_window(window, limits.window_min_h, limits.window_max_h)
    token = form.get("once", "")
    if not 1 <= len(token) <= 255:
        raise InvalidInput("The form is not whole; open the page again.", param="once")
    return BatchRequest(
        owner=caller.owner,
        key_id=caller.key_id,
        endpoint=check_endpoint(form.get("endpoint", ""), house.services.config.listed_endpoints),
        input_file_id=file.id,
        file=file,
        completion_window=window or None,
        model_id=form.get("model", "").strip() or None,
        metadata={"name": name} if name else None,
        dialect=Dialect.TOGETHER,
        # The button pressed twice, or the page sent again, makes one batch.
        attempt=Attempt(digest=f"dashboard {file.id}", key=f"dashboard-{token}"),
    )


async def _estimate(house: House, caller: Caller, survey: Survey, endpoint: str) -> dict[str, Any]:
    now, catalogue = now_ms(), house.services.catalogue
    window_ms = int(house.services.config.limits.window_h * 3_600_000)
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
