"""The OpenAPI document: routes and parameters as FastAPI knows them, bodies and answers from the table of operations.

Handlers read and render bodies by hand, so FastAPI cannot know those; tests hold the document against a real server.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from backfill import __version__
from backfill.web.api.operations import OPERATIONS, PATH_PARAMETERS, REFERENCE, Answer, Operation
from backfill.web.api.schemas import ErrorAnswer

__all__ = ["make_document"]

_DESCRIPTION = """\
The Batch APIs of Together and OpenAI, self-hosted. `docs/wire.md` tells what no schema can.

Every path under `/v1` is also served under `/together/v1` and `/openai/v1`, where answers have that dialect's members \
only. Under plain `/v1` a file has the members of both dialects, a batch those of the dialect it was made in: the \
purpose of its input file decides, `batch-api` for Together's and `batch` for OpenAI's.

`HEAD` is answered wherever `GET` is: the same status and headers, no body. A body may be sent with `Content-Encoding: \
gzip`; any other coding is a 415. A server without keys answers 403 to a `Host` that is not its own and to pages of \
other sites.

Every answer has the header `x-request-id`. A 503 has `retry-after`; the other errors below 500 have \
`x-should-retry: false`.
"""
_ERRORS = {
    400: "A field, a body or a state will not do.",
    401: "No API key, or not one of ours.",
    403: "A key without a scope for this; or an address whose signature is not valid or has expired.",
    404: "Not there, or not yours.",
    413: "More bytes than the limit allows.",
    416: "The range lies behind the end of the file.",
    429: "The limit of requests or tokens a minute, or of enqueued tokens; retry-after says when there is room.",
    500: "The server's own fault.",
    502: "The engine broke off before it answered.",
    503: "The store, or the engine, is out for the moment.",
    504: "The engine did not answer in time.",
}


def make_document(app: FastAPI) -> dict[str, Any]:
    """The document of all routes of `app` that the table has; a test sees to it that it has all."""
    document = get_openapi(title=app.title, version=__version__, description=_DESCRIPTION, routes=app.routes)
    for path, methods in document["paths"].items():
        for method in list(methods):
            operation = OPERATIONS.get((method.upper(), path))
            if operation is None:
                del methods[method]
            else:
                _complete(methods[method], operation)
    document["components"] = {
        "schemas": _find_schemas(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "Asked for once there is a key."}
        },
    }
    return document


def _find_schemas() -> dict[str, Any]:
    models = {model for operation in OPERATIONS.values() for model in operation.models} | {ErrorAnswer}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=REFERENCE)
    found: dict[str, Any] = definitions["$defs"]
    return found


def _complete(found: dict[str, Any], operation: Operation) -> None:
    """Add to what FastAPI says of a route what only the table knows."""
    for parameter in found.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] = PATH_PARAMETERS[parameter["name"]]
        _drop_titles(parameter["schema"])
    found.setdefault("parameters", []).extend(operation.headers)
    if not found["parameters"]:
        del found["parameters"]
    found.pop("requestBody", None)
    if operation.body is not None:
        found["requestBody"] = operation.body
    found["responses"] = {str(answer.status): _render_answer(answer) for answer in operation.answers}
    error = {"application/json": {"schema": {"$ref": REFERENCE.format(model=ErrorAnswer.__name__)}}}
    for status in operation.errors:
        found["responses"][str(status)] = {"description": _ERRORS[status], "content": error}
    found["security"] = [] if operation.is_open else [{"bearer": []}]


def _render_answer(answer: Answer) -> dict[str, Any]:
    rendered: dict[str, Any] = {"description": answer.description}
    if answer.content:
        rendered["content"] = answer.content
    if answer.headers:
        rendered["headers"] = {
            name: {"schema": {"type": "string"}, "required": True, "description": description}
            for name, description in answer.headers.items()
        }
    return rendered


def _drop_titles(schema: dict[str, Any]) -> None:
    schema.pop("title", None)
