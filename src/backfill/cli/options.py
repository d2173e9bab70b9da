"""Options that several commands have in common."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backfill.cli.offers import offer_endpoints, offer_windows
from backfill.errors import InvalidInput

__all__ = [
    "AsJson",
    "ConfigFile",
    "Deterministic",
    "Endpoint",
    "InputFile",
    "OnInvalidLines",
    "SkipInvalidLines",
    "Window",
    "read_key",
]


class OnInvalidLines(StrEnum):
    """What becomes of lines that are no requests: all fails, or only they."""

    FAIL = "fail"
    ERROR_FILE = "error_file"


SkipInvalidLines = Annotated[
    OnInvalidLines | None,
    typer.Option(
        "--on-invalid-lines",
        help="Whether a line that is no request fails all (the default), or goes to the error file and the rest runs.",
    ),
]

InputFile = Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="Requests, one JSON object a line.")]
Endpoint = Annotated[str, typer.Option(metavar="PATH", help="Where each request goes.", autocompletion=offer_endpoints)]
Window = Annotated[
    str | None,
    typer.Option(metavar="TIME", help='How long it may take, such as "24h".', autocompletion=offer_windows),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings; ./backfill.toml if it is there.")
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Built-in engine: answers never depend on what runs beside them; about half as fast."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable; raises InvalidInput if one was named that is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        message = f"The environment variable {variable} is not set; --api-key-env needs one that holds the key."
        raise InvalidInput(message, param="api_key_env")
    return key
