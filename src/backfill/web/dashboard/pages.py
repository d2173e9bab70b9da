"""Which page is where."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from backfill.web.dashboard import batch_handlers, handlers, live_pages, login, new_handlers
from backfill.web.dashboard.house import House
from backfill.web.dashboard.visit import HEADERS, ROOT, Handler, open_to_callers

__all__ = ["make_pages"]

_GET: dict[str, Handler] = {
    "/": handlers.show_overview,
    f"{ROOT}/batches": handlers.show_batches,
    f"{ROOT}/batches/{{batch_id}}": batch_handlers.show_batch,
    f"{ROOT}/batches/{{batch_id}}/results.jsonl": batch_handlers.send_partial_results,
    f"{ROOT}/batches/{{batch_id}}/results.csv": batch_handlers.send_csv,
    f"{ROOT}/batches/{{batch_id}}/results.parquet": batch_handlers.send_parquet,
    f"{ROOT}/files/{{file_id}}/content": batch_handlers.send_file,
    f"{ROOT}/new": new_handlers.show_new,
    f"{ROOT}/new/{{file_id}}": new_handlers.show_file,
    f"{ROOT}/keys": handlers.show_keys,
}
_POST: dict[str, Handler] = {
    f"{ROOT}/batches/cancel": handlers.cancel_batches,
    f"{ROOT}/batches/retry": handlers.retry_batches,
    f"{ROOT}/batches/{{batch_id}}/cancel": batch_handlers.cancel_batch,
    f"{ROOT}/batches/{{batch_id}}/pause": batch_handlers.pause_batch,
    f"{ROOT}/batches/{{batch_id}}/resume": batch_handlers.resume_batch,
    f"{ROOT}/batches/{{batch_id}}/retry": batch_handlers.retry_batch,
    f"{ROOT}/new": new_handlers.receive_new,
    f"{ROOT}/new/{{file_id}}": new_handlers.start_batch,
    f"{ROOT}/new/{{file_id}}/preview": new_handlers.preview_table,
    f"{ROOT}/keys": handlers.create_key,
    f"{ROOT}/keys/{{key_id}}/revoke": handlers.revoke_key,
    f"{ROOT}/logout": login.log_out,
}


class _Assets(StaticFiles):
    """The style sheet and the script: asked for with the version in their address, so that they may be kept."""

    async def get_response(self, path: str, scope: dict) -> Response:  # type: ignore[override,type-arg]
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "public, max-age=86400"
        response.headers["x-content-type-options"] = "nosniff"
        return response


def make_pages(house: House) -> Starlette:
    """The application that has all of them."""
    routes: list[Route | Mount] = [
        Route(path, open_to_callers(house, handle), methods=["POST"]) for path, handle in _POST.items()
    ]
    routes += [Route(path, open_to_callers(house, handle), methods=["GET"]) for path, handle in _GET.items()]
    events = live_pages.LivePages(house)
    routes += [
        Route(f"{ROOT}/events", events.answer, methods=["GET"]),
        Route(f"{ROOT}/login", login.make_form(house), methods=["GET"]),
        Route(f"{ROOT}/login", login.make_entry(house), methods=["POST"]),
        Mount(f"{ROOT}/static", _Assets(directory=Path(__file__).parent / "static")),
    ]

    async def find_nothing(_request: Request, _error: Exception) -> Response:
        page = house.render("plain.html", {"title": "Not found", "message": "There is no such page.", "root": ROOT})
        return HTMLResponse(page, 404, HEADERS)

    return Starlette(routes=routes, exception_handlers={404: find_nothing})
