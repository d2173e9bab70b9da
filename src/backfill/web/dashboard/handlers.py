"""Pages about all batches, and about keys."""

from urllib.parse import quote, urlencode

from starlette.responses import Response

from backfill.errors import InvalidInput
from backfill.intake import FailureChoice
from backfill.turns import Attempt
from backfill.web.api.retry import retry_failed
from backfill.web.dashboard.batches_page import build_batches, find_failed, find_unended, read_wanted
from backfill.web.dashboard.keys_page import build_keys, read_draft
from backfill.web.dashboard.overview import build_overview
from backfill.web.dashboard.visit import ROOT, Visit

__all__ = [
    "cancel_batches",
    "create_key",
    "retry_batches",
    "revoke_key",
    "show_batches",
    "show_keys",
    "show_overview",
]

_KEYS = "/v1/organization/admin_api_keys"


async def show_overview(visit: Visit) -> Response:
    """The first page."""
    visit.check("GET", "/v1/batches")
    context = await build_overview(visit.house, visit.owner)
    return visit.show("overview.html", context | {"live": f"{ROOT}/events?page=overview"})


async def show_batches(visit: Visit) -> Response:
    """The list, filtered."""
    visit.check("GET", "/v1/batches")
    wanted = read_wanted(visit.request.query_params)
    context = await build_batches(visit.house, visit.owner, wanted)
    query = wanted.write()
    return visit.show("batches.html", context | {"live": f"{ROOT}/events?page=batches&{query}".rstrip("&")})


async def cancel_batches(visit: Visit) -> Response:
    """Cancel all that the filter found, and no others."""
    visit.check("POST", "/v1/batches/{batch_id}/cancel")
    form = (await visit.read_form()).values
    wanted = read_wanted(form)
    until_ms, count = _read_number(form, "seen"), _read_number(form, "count")
    found = await find_unended(visit.house, wanted.make_filter(visit.owner, until_ms), count)
    for batch in found:
        await visit.house.services.turns.cancel(batch.id, batch.owner)
        visit.house.services.audit.record(visit.request.scope, "batch.cancel", visit.caller, batch=batch.id)
    return _go_back(visit, wanted.write(), f"{len(found)} cancelled; what is finished is kept.")


async def retry_batches(visit: Visit) -> Response:
    """Run what failed in all that the filter found again, a batch for each."""
    visit.check("POST", "/v1/batches/{batch_id}/retry")
    form = (await visit.read_form()).values
    wanted = read_wanted(form)
    until_ms, count = _read_number(form, "seen"), _read_number(form, "count")
    found = await find_failed(visit.house, wanted.make_filter(visit.owner, until_ms), count)
    for batch in found:
        attempt = Attempt(digest=f"dashboard retry {batch.id}", key=f"dashboard-{until_ms}-{batch.id}")
        if await visit.house.services.turns.find_repeated(batch.owner, attempt) is None:
            await retry_failed(visit.house.services, batch, FailureChoice(), attempt, visit.caller.key_id)
    return _go_back(visit, wanted.write(), f"What failed in {len(found)} batches runs again.")


async def show_keys(visit: Visit) -> Response:
    """The keys, for an admin."""
    visit.check("GET", _KEYS)
    return visit.show("keys.html", await build_keys(visit.house))


async def create_key(visit: Visit) -> Response:
    """A new key, which is shown in this answer and never again."""
    visit.check("POST", _KEYS)
    form = await visit.read_form()
    key, secret = await visit.house.services.keys.create(read_draft(form.values, form.lists.get("scopes", [])))
    facts = {"key": key.id, "prefix": key.prefix, "name": key.name, "key_owner": key.owner}
    visit.house.services.audit.record(visit.request.scope, "key.create", visit.caller, **facts)
    return visit.show("keys.html", await build_keys(visit.house, (key, secret)))


async def revoke_key(visit: Visit) -> Response:
    """Let nobody in with it any more."""
    visit.check("DELETE", f"{_KEYS}/{{key_id}}")
    await visit.read_form()
    key = await visit.house.services.keys.revoke(visit.request.path_params["key_id"])
    visit.house.services.audit.record(visit.request.scope, "key.revoke", visit.caller, key=key.id, prefix=key.prefix)
    return visit.go(f"{ROOT}/keys?{urlencode({'notice': f'{key.name} lets nobody in any more.'})}")


def _go_back(visit: Visit, query: str, notice: str) -> Response:
    return visit.go(f"{ROOT}/batches?{query}{'&' if query else ''}notice={quote(notice)}")


def _read_number(form: dict[str, str], name: str) -> int:
    value = form.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise InvalidInput("The form is not whole; open the page again.", param=name)
    return int(value)
