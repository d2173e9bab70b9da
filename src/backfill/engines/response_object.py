"""What OpenAI's response object always has and some servers leave out (llama-server does): pure, from bytes to bytes.

Clients that check what they read (Inspect, autobatcher) lose every answer of `/v1/responses` without these members.
"""

from typing import Final

import msgspec

__all__ = ["complete_response"]

# As OpenAI's API reference gives them where a request does not say otherwise.
_ECHOED: Final = {"parallel_tool_calls": b"true", "tool_choice": b'"auto"', "tools": b"[]"}
_DETAILS: Final = {
    "input_tokens_details": {"cached_tokens": b"0", "cache_write_tokens": b"0"},
    "output_tokens_details": {"reasoning_tokens": b"0"},
}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_OBJECT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Request(msgspec.Struct):
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, object] | None = None
    tools: list[dict[str, object]] | None = None


_request = msgspec.json.Decoder(_Request)


def complete_response(answer: bytes, request: bytes) -> bytes:
    """The answer to a `/v1/responses` request with what it lacks: absent or null members that are never null.

    How tools may be called is what the request said of it, and a count that is not told is 0. Every other member keeps
    its bytes. An answer that lacks nothing, or is no such object, comes back as it is.
    """
    members = _read_object(answer)
    if "output" not in members:
        return answer
    lacking = [name for name in _ECHOED if _is_absent(members, name)]
    if lacking:
        said = _read_echoes(request)
        members |= {name: said.get(name, msgspec.Raw(_ECHOED[name])) for name in lacking}
    usage = _complete_usage(members)
    if usage is not None:
        members["usage"] = usage
    return msgspec.json.encode(members) if lacking or usage is not None else answer


def _complete_usage(members: dict[str, msgspec.Raw]) -> msgspec.Raw | None:
    """The usage with every detail, or None where there is none to complete."""
    usage = _read_object(members.get("usage"))
    is_complete = True
    for name, counts in _DETAILS.items():
        details = _read_object(usage.get(name))
        lacking = [count for count in counts if _is_absent(details, count)]
        if usage and lacking:
            is_complete = False
            details |= {count: msgspec.Raw(counts[count]) for count in lacking}
            usage[name] = msgspec.Raw(msgspec.json.encode(details))
    return None if is_complete else msgspec.Raw(msgspec.json.encode(usage))


def _read_echoes(request: bytes) -> dict[str, msgspec.Raw]:
    """Those of the echoed members that the request has, if they are of the shape an answer may show."""
    try:
        _request.decode(request)
    except _NO_OBJECT:
        return {}
    members = _read_object(request)
    return {name: members[name] for name in _ECHOED if not _is_absent(members, name)}


def _is_absent(members: dict[str, msgspec.Raw], name: str) -> bool:
    return bytes(members.get(name, b"null")) == b"null"


def _read_object(source: bytes | msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Its members; none where it is no object."""
    try:
        return _object.decode(source or b"null")
    except _NO_OBJECT:
        return {}
