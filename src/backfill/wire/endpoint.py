"""How endpoints are written: in a create, and as `method` and `url` of a line of OpenAI's dialect. Pure."""

from collections.abc import Collection

from backfill.batch import AUDIO_ENDPOINTS, ENDPOINTS, BatchProblem
from backfill.wire.quotation import quote

__all__ = ["find_endpoint", "find_target_problem"]

_VERSION = "/v1"
# Together's word for a request with a file, which reaches the engine as a form.
_FILE = "FILE"


def find_endpoint(path: str, listed: Collection[str] = ()) -> str | None:
    """The endpoint that is meant by a path with or without its /v1, as Azure leaves it out; None if there is none.

    `listed` are endpoints beside those that are known.
    """
    for form in (path, _VERSION + path):
        if form in listed or form in ENDPOINTS:
            return form
    return None


def find_target_problem(target: tuple[str | None, str | None], endpoint: str) -> BatchProblem | None:
    """Why a line of OpenAI's dialect with this `method` and `url` cannot go to `endpoint`; None if it can."""
    method, url = target
    if method != "POST" and not (method == _FILE and endpoint in AUDIO_ENDPOINTS):
        missing = 'method is missing; each line needs "method": "POST".'
        message = missing if method is None else f'method must be "POST"; got {quote(method)}.'
        return BatchProblem("invalid_method", message, param="method")
    if url is None:
        message = f'url is missing; each line needs "url": "{endpoint}", the batch\'s endpoint.'
        return BatchProblem("url_mismatch", message, param="url")
    if url not in (endpoint, endpoint.removeprefix(_VERSION)):
        message = f"url must be the batch's endpoint {endpoint}; got {quote(url)}."
        return BatchProblem("url_mismatch", message, param="url")
    return None
