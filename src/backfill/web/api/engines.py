"""What the dispatcher knows of its engines, for whoever watches or operates the server."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from backfill.accounts import compute_hardware_cost
from backfill.batch import Usage
from backfill.status import ReplicaStatus
from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import Owner
from backfill.web.api.services import Services, ServicesOf

__all__ = ["complete_replica", "router"]

router = APIRouter()


@router.get("/v1/engines")
async def list_engines(services: ServicesOf, _owner: Owner) -> Response:
    """Every replica that lines are sent to: its state, what is with it, and what keeps it from doing more."""
    replicas = [complete_replica(services, replica) for replica in services.list_replicas()]
    data = [{"object": "engine", **msgspec.structs.asdict(replica)} for replica in replicas]
    return JsonResponse({"object": "list", "data": data})


def complete_replica(services: Services, replica: ReplicaStatus) -> ReplicaStatus:
    """With what its hardware cost, if that is known."""
    # Of several processes each has its name behind that of its engine.
    engine, money = services.config.engines.get(replica.name.partition("@")[0]), services.config.money
    if engine is None:
        return replica
    prices = {services.catalogue.price(model) for model in engine.models}
    usage = Usage(replica.prompt_tokens, replica.completion_tokens, replica.cached_tokens)
    cost = compute_hardware_cost(engine, money, replica.busy_ms, usage, prices)
    return msgspec.structs.replace(
        replica,
        hardware_cost_per_million=cost.per_million,
        list_price_per_million=cost.list_price_per_million if money.show_savings else None,
        currency=money.currency.lower(),
    )
