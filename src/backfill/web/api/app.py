"""The application: routes, errors, and the layers around them."""

from fastapi import FastAPI

from backfill.web.api import batches, engines, files, metrics, openapi, parts, results, retry, service, uploads
from backfill.web.api.boundary import Boundary
from backfill.web.api.errors import handle_errors
from backfill.web.api.paths import PathAliases
from backfill.web.api.services import Services

__all__ = ["create_app"]

_PARTS = (service, engines, metrics, openapi, uploads, parts, files, batches, results, retry)


def create_app(services: Services) -> FastAPI:
    """The HTTP API over these services, ready for an ASGI server."""
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
    handle_errors(app)
    # The one added last is the outermost.
    app.add_middleware(PathAliases)
    app.add_middleware(Boundary)
    return app
