"""Which server a command asks, and with which key."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from backfill.cli.failures import end_on_error
from backfill.cli.offers import offer_key_variables
from backfill.cli.options import read_key
from backfill.cli.remote import RemoteServer

__all__ = ["URL_VARIABLE", "KeyVariable", "Url", "ask_server", "open_server"]

URL_VARIABLE = "BACKFILL_URL"
_DEFAULT_URL = "http://127.0.0.1:8484"
_KEY_VARIABLE = "BACKFILL_API_KEY"

_Answer = TypeVar("_Answer")
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help=f"The server; {URL_VARIABLE}, or {_DEFAULT_URL}.")
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="VAR",
        help=f"Environment variable with the API key; {_KEY_VARIABLE}.",
        autocompletion=offer_key_variables,
    ),
]


def open_server(url: str | None, api_key_env: str | None) -> RemoteServer:
    """The server that options and variables name; raises InvalidInput if they name none, or no key."""
    key = read_key(api_key_env) or os.environ.get(_KEY_VARIABLE)
    return RemoteServer(url or os.environ.get(URL_VARIABLE) or _DEFAULT_URL, key)


def ask_server(
    work: Callable[[RemoteServer], Awaitable[_Answer]], url: str | None, api_key_env: str | None, *, as_json: bool
) -> _Answer:
    """What `work` comes to with the server that options and variables name; ends the command on an error."""

    async def connect() -> _Answer:
        async with open_server(url, api_key_env) as server:
            return await work(server)

    with end_on_error(as_json=as_json):
        return asyncio.run(connect())
