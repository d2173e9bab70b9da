"""`GET /metrics`, for a Prometheus server."""

from fastapi import APIRouter
from starlette.responses import Response

from backfill.accounts import count_by_state
from backfill.status import MetricFamily
from backfill.web.api.keys import CallerOf
from backfill.web.api.services import Services, ServicesOf

__all__ = ["router"]

# The one format that every scraper reads; what the Accept header asks for is not parsed.
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter()


@router.get("/metrics")
async def get_metrics(services: ServicesOf, _caller: CallerOf) -> Response:
    """Replicas, batches by state and this process, for a Prometheus server."""
    from backfill.web.api.exposition import expose  # noqa: PLC0415 - loads what only a scraped server needs

    families = [*await _describe_keys(services)]
    for source in services.metrics_sources:
        families += await source()
    exposed = expose(services.list_replicas(), await services.metadata.count_batches(), families)
    return Response(exposed, headers={"content-type": _CONTENT_TYPE})


async def _describe_keys(services: Services) -> tuple[MetricFamily, ...]:
    counts = count_by_state(await services.keys.list())
    return (
        MetricFamily(
            "backfill_keys",
            "API keys of the database, by whether they let anybody in.",
            "gauge",
            ("state",),
            {(state,): found for state, found in counts.items()},
        ),
        MetricFamily(
            "backfill_logins_refused",
            "Requests that came without a key that holds, by the code of the error that they were answered with.",
            "counter",
            ("code",),
            {(code,): count for code, count in services.audit.refused.items()},
        ),
    )
