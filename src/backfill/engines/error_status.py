"""The HTTP status that an error object stands for.

Gateways answer 200 and put inside what the server behind them said.
"""

from http import HTTPStatus
from typing import Final

__all__ = ["find_status"]

# Where OpenAI, Google, LiteLLM, OpenRouter, vLLM and llama-server put a number or a name, the most exact first.
_MEMBERS: Final = ("code", "status", "status_code", "type")
# What OpenAI, Anthropic, Google and llama-server call their errors, without "error", case and strokes.
_NAMES: Final = {
    "ratelimit": 429,
    "ratelimitexceeded": 429,
    "resourceexhausted": 429,
    "insufficientquota": 429,
    "server": 500,
    "internal": 500,
    "api": 500,
    "overloaded": 503,
    "engineoverloaded": 503,
    "unavailable": 503,
    "timeout": 504,
    "deadlineexceeded": 504,
    "invalidrequest": 400,
    "invalidargument": 400,
    "invalidprompt": 400,
    "contextlengthexceeded": 400,
    "contextwindowexceeded": 400,
    "exceedcontextsize": 400,
    "contentfilter": 400,
    "contentpolicyviolation": 400,
    "authentication": 401,
    "unauthenticated": 401,
    "invalidapikey": 401,
    "permission": 403,
    "permissiondenied": 403,
    "modelnotfound": 404,
}


def find_status(error: object) -> int | None:
    """A status from 400 to 599, by number or by name; None where the error gives neither or one nobody knows."""
    if not isinstance(error, dict):
        return None
    return next(filter(None, (_read_status(error.get(name)) for name in _MEMBERS)), None)


def _read_status(value: object) -> int | None:
    if isinstance(value, str):
        value = int(value) if len(value) == 3 and value.isdecimal() else _KNOWN.get(_normalise(value))
    # Not True, which is an int too but no status.
    return value if isinstance(value, int) and 400 <= value <= 599 else None


def _normalise(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower())).removesuffix("error")


_KNOWN: Final = {_normalise(status.name): status.value for status in HTTPStatus} | _NAMES
