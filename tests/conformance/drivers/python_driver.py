"""Calls a Python client library for a test that lives in another process and another environment.

Argument: the module of the library. Each line on stdin is one call as JSON, each line on stdout its answer:

    {"class": "Together", "options": {}, "method": "files.upload", "arguments": {"file": {"path": "in.jsonl"}}}
    {"result": {"id": "file-..."}}    or    {"error": {"kind": "NotFoundError", "status": 404, "message": "..."}}

With `"collect": true` the answer holds what iterating over the result gives. It needs nothing but the library, and
runs on the Python and the dependencies that the library's version asks for.
"""

import asyncio
import importlib
import inspect
import json
import operator
import sys
from pathlib import Path
from typing import Any

_ERROR_FIELDS = ("code", "type", "param", "request_id", "body")


async def call(client: Any, request: dict[str, Any]) -> Any:
    method = operator.attrgetter(request["method"])(client)
    arguments = {name: read_argument(value) for name, value in request.get("arguments", {}).items()}
    found = method(**arguments)
    if request.get("collect"):
        # An async page is awaitable too, but then it is only the first one.
        return [dump(each) async for each in found] if hasattr(found, "__aiter__") else [dump(each) for each in found]
    if inspect.isawaitable(found):
        found = await found
    if hasattr(found, "read"):
        found = found.read()
        return (await found if inspect.isawaitable(found) else found).decode()
    return dump(found)


def read_argument(value: Any) -> Any:
    return Path(value["path"]) if isinstance(value, dict) and set(value) == {"path"} else value


def dump(found: Any) -> Any:
    if isinstance(found, list):
        return [dump(each) for each in found]
    return found.model_dump(mode="json", by_alias=True) if hasattr(found, "model_dump") else found


def describe(error: Exception) -> dict[str, Any]:
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    fields = {name: getattr(error, name, None) for name in _ERROR_FIELDS}
    return {"kind": type(error).__name__, "status": status, "message": str(error), **fields}


async def main() -> None:
    library = importlib.import_module(sys.argv[1])
    clients: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps([request["class"], request.get("options")])
        try:
            if key not in clients:
                clients[key] = getattr(library, request["class"])(**request.get("options", {}))
            answer = {"result": await call(clients[key], request)}
        except Exception as error:  # noqa: BLE001 - whatever the library raises is what the test asks about
            answer = {"error": describe(error)}
        print(json.dumps(answer, default=str), flush=True)  # noqa: T201


asyncio.run(main())
