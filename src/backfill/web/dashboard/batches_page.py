"""The list of batches: filtered, paged, and with actions on all that the filter finds."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from backfill.batch import Batch
from backfill.errors import Conflict, InvalidInput
from backfill.store import BatchFilter, BatchSums
from backfill.turns import now_ms
from backfill.web.dashboard.batch_rows import describe_batch
from backfill.web.dashboard.house import House
from backfill.web.dashboard.wording import STATE_WORDS

__all__ = ["BULK_MAX", "Wanted", "build_batches", "find_failed", "find_unended", "read_wanted"]

BULK_MAX = 1000
_PAGE = 25
_MODELS_AGE_S = 30.0
_TEXT_LENGTH = 200
_STATES = {word: state for state, word in STATE_WORDS.items()}


class Wanted(NamedTuple):
    """What the query of the page asks for."""

    state: str = ""
    model: str = ""
    owner: str = ""
    text: str = ""
    offset: int = 0

    def make_filter(self, owner: str | None, until_ms: int | None = None) -> BatchFilter:
        """For who may see the batches of `owner`; None: of all."""
        states = (_STATES[self.state],) if self.state in _STATES else ()
        return BatchFilter(owner or self.owner or None, states, self.model, self.text, until_ms)

    def write(self, **changes: object) -> str:
        """As a query."""
        members = {name: value for name, value in {**self._asdict(), **changes}.items() if value}
        return urlencode(members)


def read_wanted(query: Mapping[str, str]) -> Wanted:
    """The filter in a query or a form; raises InvalidInput for a page that is no number."""
    offset = query.get("offset") or "0"
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 9):
        raise InvalidInput("offset must be a number of 0 or more.", param="offset")
    texts = {name: query.get(name, "")[:_TEXT_LENGTH] for name in ("state", "model", "owner", "text")}
    return Wanted(**texts, offset=int(offset))


async def build_batches(house: House, owner: str | None, wanted: Wanted) -> dict[str, Any]:
    """One page of the list, and what the buttons would do."""
    search, seen_ms = house.search, now_ms()
    matching = wanted.make_filter(owner, seen_ms)
    sums: BatchSums = await search.sum_up(matching)
    batches = await search.find(matching, offset=wanted.offset, limit=_PAGE)
    models = await house.keep(("models", owner), _MODELS_AGE_S, lambda: search.list_models(owner))
    last = wanted.offset + len(batches)
    return {
        "title": "Batches",
        "rows": [await describe_batch(house, batch) for batch in batches],
        "wanted": wanted,
        "words": list(STATE_WORDS.values()),
        "models": models,
        "is_admin": owner is None,
        "sums": sums,
        "seen_ms": seen_ms,
        "bulk_max": BULK_MAX,
        "first": wanted.offset + 1 if batches else 0,
        "last": last,
        "next": wanted.write(offset=last) if last < sums.found else None,
        "previous": wanted.write(offset=max(0, wanted.offset - _PAGE)) if wanted.offset else None,
    }


async def find_unended(house: House, matching: BatchFilter, count: int) -> list[Batch]:
    """The batches that a cancel of the whole filter takes; raises Conflict if these are not as many as was said."""
    return _check_count([batch for batch in await _find(house, matching) if not batch.state.is_final], count)


async def find_failed(house: House, matching: BatchFilter, count: int) -> list[Batch]:
    """The same for a retry of what failed."""
    found = await _find(house, matching)
    with_failures = [
        batch for batch in found if batch.state.is_final and batch.started_at_ms is not None and batch.counts.failed
    ]
    return _check_count(with_failures, count)


async def _find(house: House, matching: BatchFilter) -> list[Batch]:
    found: list[Batch] = []
    while some := await house.search.find(matching, offset=len(found), limit=BULK_MAX):
        found += some
    return found


def _check_count(found: list[Batch], count: int) -> list[Batch]:
    if len(found) > BULK_MAX:
        raise Conflict(f"That is more than {BULK_MAX} batches at once; narrow the filter.")
    if len(found) != count:
        message = f"The list has changed: this would take {len(found)} batches now, not {count}. Look at it again."
        raise Conflict(message)
    return found
