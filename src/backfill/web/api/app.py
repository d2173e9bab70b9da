"""The application: routes, errors, and the layers around them."""

from fastapi import FastAPI

from backfill.web.api import batches, files, service, uploads
from backfill.web.api.boundary import Boundary
from backfill.web.api.errors import handle_errors
from backfill.web.api.paths import PathAliases
from backfill.web.api.services import Services

__all__ = ["create_app"]


def create_app(services: Services) -> FastAPI:
    """The HTTP API over these services, ready for an ASGI server."""
    app = FastAPI(
        title="Backfill",
        # The pages would load scripts from elsewhere, and the schema cannot say what docs/wire.md says.
        openapi_url=None,
        # A redirect loses the body of some clients; PathAliases takes care of slashes.
        redirect_slashes=False,
    )
    app.state.services = services
    for part in (service, uploads, files, batches):
        app.include_router(part.router)
    handle_errors(app)
    # The one added last is the outermost.
    app.add_middleware(PathAliases)
    app.add_middleware(Boundary)
    return app
