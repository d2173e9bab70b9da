"""The application: routes, errors, and the layers around them."""

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp

from backfill.web.api import (
    admin_keys,
    batches,
    engines,
    estimates,
    files,
    gc,
    live,
    metrics,
    models,
    openapi,
    organization,
    parts,
    results,
    retry,
    service,
    tables,
    uploads,
    usage,
    webhooks,
)
from backfill.web.api.boundary import Boundary
from backfill.web.api.compression import RequestDecoding
from backfill.web.api.errors import handle_errors
from backfill.web.api.head import HeadRequests
from backfill.web.api.origins import OriginCheck
from backfill.web.api.paths import PathAliases
from backfill.web.api.relay import list_relay_routes
from backfill.web.api.services import Services

__all__ = ["create_app", "create_watched_app"]

_PARTS = (
    live,
    service,
    models,
    estimates,
    engines,
    metrics,
    openapi,
    uploads,
    parts,
    files,
    tables,
    batches,
    results,
    retry,
    admin_keys,
    gc,
    usage,
    webhooks,
    organization,
)


def create_app(services: Services, pages: ASGIApp | None = None) -> FastAPI:
    """The HTTP API over these services, ready for an ASGI server, and `pages` for people beside it."""
    app = FastAPI(
        title="Backfill",
        # FastAPI's own pages would load scripts from elsewhere; the document is ours (`openapi`).
        openapi_url=None,
        # A redirect loses the body of some clients; PathAliases takes care of slashes.
        redirect_slashes=False,
    )
    app.state.services = services
    routers = [part.router for part in _PARTS]
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    if services.relay_key:
        # Of no use to clients, and so not among the routes that are told of.
        app.router.routes += list_relay_routes()
    if pages is not None:
        app.router.routes += [Route("/", pages), Route("/dashboard/{page:path}", pages)]
    handle_errors(app)
    # The one added last is the outermost.
    if services.trace is not None:
        app.add_middleware(services.trace)
    app.add_middleware(PathAliases)
    app.add_middleware(RequestDecoding)
    app.add_middleware(HeadRequests)
    app.add_middleware(OriginCheck, server=services.config.server, keys=services.keys)
    app.add_middleware(Boundary)
    return app


def create_watched_app(services: Services) -> FastAPI:
    """For a process that answers no clients: how it is, and what processes without engines pass on to it."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.services = services
    for part in (service, metrics):
        app.include_router(part.router)
    app.state.routes = list(app.routes)
    if services.relay_key:
        app.router.routes += list_relay_routes()
    handle_errors(app)
    app.add_middleware(HeadRequests)
    app.add_middleware(Boundary)
    return app
