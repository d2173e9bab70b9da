"""A new batch of a table: its columns and rows, the requests that a prompt makes of them, and the start."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import msgspec

from backfill.api_key import Caller
from backfill.batch import Batch, Dialect, File, Reservation
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import LeftOut, TablePreview, make_requests, preview_requests
from backfill.tables import CHAT, TABLE_ENDPOINTS, TRANSCRIPTIONS, Question
from backfill.turns import Attempt, BatchRequest, check_endpoint, judge, now_ms
from backfill.web.api.file_limits import find_limits
from backfill.web.dashboard.house import House
from backfill.web.dashboard.new_batch import PURPOSE, check_window, estimate, read_name, read_once
from backfill.web.dashboard.readable import Passage, read_request

__all__ = ["Preview", "TableForm", "build_preview", "build_table", "start_table"]

_ROWS_SHOWN = 5
_REQUESTS_SHOWN = 3
_LEFT_OUT_SHOWN = 20


class TableForm(NamedTuple):
    """What was written on the page, as text."""

    prompt: str = ""
    system: str = ""
    columns: str = ""
    id_column: str = ""
    endpoint: str = CHAT
    model: str = ""
    window: str = ""
    limit: str = ""
    name: str = ""
    once: str = ""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Self:
        """Out of a form that was sent."""
        # Browsers send line ends of two characters.
        found = {name: values[name].replace("\r\n", "\n") for name in cls._fields if name in values}
        return cls(**found)

    def ask(self) -> Question:
        """What is asked about each row; raises InvalidInput."""
        limit = self.limit.strip()
        if limit and not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0):
            raise InvalidInput("Only the first rows: write a whole number of 1 or more, or nothing.", param="limit")
        return Question(
            prompt=self.prompt,
            system=self.system if self.system.strip() else None,
            columns=self.columns if self.columns.strip() else None,
            endpoint=check_endpoint(self.endpoint),
            model=self.model.strip() or None,
            id_column=self.id_column or None,
            limit=int(limit[:9]) if limit else None,
        )


class Preview(NamedTuple):
    """What a form would ask, or why it cannot."""

    state: str
    """In a sentence."""
    problem: str = ""
    requests: tuple[tuple[str, list[Passage]], ...] = ()
    """Custom id, and what is asked."""
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    looked_at: int = 0
    rows: int = 0
    estimate: dict[str, Any] | None = None


async def build_table(house: House, file: File, form: TableForm) -> dict[str, Any]:
    """What is in the table, and what was written so far."""
    facts = await house.services.intake.tables.describe(file, _ROWS_SHOWN)
    models = await house.services.list_models()
    served = {endpoint for model in models for endpoint in model.endpoints}
    limits = house.services.config.limits
    names = [model.id for model in models]
    only = names[0] if len(names) == 1 and names[0] != "*" else ""
    return {
        "file": file,
        "facts": facts,
        "columns": [{"name": name, "place": _write_place(name)} for name in facts.columns],
        "endpoints": [name for name in TABLE_ENDPOINTS if name in served and name < TRANSCRIPTIONS] or [CHAT],
        "models": names,
        "form": form._replace(model=form.model or only, window=form.window or f"{limits.window_h:g}h"),
        "windows": [f"{limits.window_min_h:g}h", f"{limits.window_max_h:g}h"],
        "lines_max": limits.lines,
    }


async def build_preview(house: House, caller: Caller, file: File, form: TableForm) -> Preview:
    """The first requests, and what all would take, guessed from the first rows."""
    intake = house.services.intake
    try:
        question = form.ask()
        found = await preview_requests(intake, file, question, find_limits(intake, caller), _REQUESTS_SHOWN)
        window_ms = check_window(house, form.window)
    except InvalidInput as error:
        return Preview(error.message, error.message)
    made = found.looked_at - len(found.left_out)
    if not made:
        told = found.left_out[0].reason if found.left_out else "the table has no rows"
        message = f"Nothing can be asked: {told}."
        return Preview(message, message)
    verdict = judge(found.survey, question.endpoint, "any")
    reasons = verdict.reasons.problems
    rows = found.rows if made == found.looked_at else round(found.rows * made / found.looked_at)
    about = "about " if found.looked_at < found.rows else ""
    return Preview(
        state=f"{about}{rows:,} request{'' if rows == 1 else 's'} would be made",
        problem=reasons[0].message if reasons else "",
        requests=tuple(_read_line(line) for line in found.lines),
        left_out=tuple(found.left_out[:_LEFT_OUT_SHOWN]),
        left_out_count=len(found.left_out),
        looked_at=found.looked_at,
        rows=found.rows,
        estimate=await estimate(house, caller, _scale(found, made, rows), question.endpoint, window_ms),
    )


async def start_table(house: House, caller: Caller, file: File, form: TableForm) -> Batch:
    """Make the requests, and a batch of them; the same form sent again gives the same batch. Raises InvalidInput."""
    services = house.services
    # The button pressed twice, or the page sent again, makes one batch.
    attempt = Attempt(digest=f"dashboard {file.id}", key=f"dashboard-{read_once(form.once)}")
    found = await services.turns.find_repeated(caller.owner, attempt)
    if found is not None:
        return found
    check_window(house, form.window)
    name, question = read_name(form.name), form.ask()
    if question.model is None:
        raise InvalidInput("Name the model that is to answer.", param="model")
    limits = find_limits(services.intake, caller)
    made = await make_requests(services.intake, file, question, PURPOSE, limits, now_ms())
    batch: Batch | None = None
    try:
        batch = await services.turns.create(
            BatchRequest(
                owner=caller.owner,
                key_id=caller.key_id,
                endpoint=question.endpoint,
                input_file_id=made.file.id,
                file=made.file,
                completion_window=form.window.strip() or None,
                dialect=Dialect.TOGETHER,
                attempt=attempt,
                name=name,
            )
        )
        return batch
    finally:
        if batch is None or batch.input_file_id != made.file.id:
            await services.intake.remove(made.file.id)


def _write_place(name: str) -> str | None:
    """How a prompt names a column; None: it cannot name one that begins with a brace."""
    if name.startswith("{"):
        return None
    return f"{{{name.replace('{', '{{').replace('}', '}}')}}}"


def _read_line(line: bytes) -> tuple[str, list[Passage]]:
    found = msgspec.json.decode(line, type=_Line)
    return found.custom_id, read_request(bytes(found.body))


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


def _scale(found: TablePreview, made: int, rows: int) -> Survey:
    """As if all rows needed what those need that were looked at."""
    survey = found.survey
    needs = {
        model: Reservation(rows, need.prompt_tokens * rows // made, need.completion_tokens * rows // made)
        for model, need in survey.needs.items()
    }
    return msgspec.structs.replace(survey, lines=rows, token_estimate=survey.token_estimate * rows // made, needs=needs)
