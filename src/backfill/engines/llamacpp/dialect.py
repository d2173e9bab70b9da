"""OpenAI's and vLLM's words for what llama.cpp's server knows by others: pure, on the members of a request.

- A schema is followed under `json_schema` on every endpoint; under `response_format` by chat only, under
  `structured_outputs` and `guided_json` by none.
- `logprobs` of text completions come in the shape of chat's, and not at all for 0.
- `repetition_penalty` is `repeat_penalty`, and looks back over everything.
- A seed of 2³² - 1 means: any.
"""

from typing import Any, Final

import msgspec

from backfill.engines.builtin.exchange import Finish, map_choices
from backfill.engines.builtin.members import RequestRefused

__all__ = ["translate"]

_CHAT: Final = "/v1/chat/completions"
_FORMS: Final = ("text", "json_object", "json_schema")
_ANY_SEED: Final = 2**32 - 1
# It has no word for "all"; a buffer of this length is made for each request.
_LOOK_BACK_TOKENS: Final = 65_536


def translate(endpoint: str, members: dict[str, Any]) -> tuple[dict[str, Any], tuple[Finish, ...]]:
    """The members as llama.cpp's server knows them, and what is done with its answer.

    Raises:
        RequestRefused: the server cannot do what they ask for.

    """
    if endpoint not in (_CHAT, "/v1/completions"):
        return members, ()
    members = _translate_schema(members)
    if "repetition_penalty" in members:
        members = {"repeat_last_n": _LOOK_BACK_TOKENS} | members | {"repeat_penalty": members["repetition_penalty"]}
        del members["repetition_penalty"]
    if not 0 <= members.get("seed", 0) < _ANY_SEED:
        members = members | {"seed": members["seed"] % _ANY_SEED}
    return _translate_chat(members) if endpoint == _CHAT else _translate_completion(members)


def _translate_chat(members: dict[str, Any]) -> tuple[dict[str, Any], tuple[Finish, ...]]:
    top = members.get("top_logprobs")
    if not members.get("logprobs"):
        if top:
            raise RequestRefused("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
        return members, ()
    kept = members if top else {name: value for name, value in members.items() if name != "top_logprobs"}
    return kept, (lambda answer: map_choices(answer, lambda choice: _cut_top(choice, top or 0)),)


def _translate_completion(members: dict[str, Any]) -> tuple[dict[str, Any], tuple[Finish, ...]]:
    if not members.get("prompt"):
        raise RequestRefused("'prompt' is missing or empty.", "prompt")
    top = members.get("logprobs")
    if top is None:
        return members, ()
    asked = members | {"logprobs": max(top, 1)}
    return asked, (lambda answer: map_choices(answer, lambda choice: _show_columns(choice, top)),)


def _translate_schema(members: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("response_format", "guided_json", "structured_outputs"):
        if name in members:
            schema = _read_schema(name, members[name])
            if schema is not None:
                found[name] = schema
    shaping = [*found, *(name for name in ("json_schema", "grammar") if name in members)]
    if len(shaping) > 1:
        names = ", ".join(f"'{name}'" for name in shaping)
        raise RequestRefused(f"Only one of {names} may be given.", shaping[1])
    if not found:
        return members
    kept = {name: value for name, value in members.items() if name not in found}
    return kept | {"json_schema": next(iter(found.values()))}


def _read_schema(name: str, value: Any) -> Any:
    """The JSON schema; None where nothing is asked for."""
    if name == "guided_json":
        return _as_schema(value, name)
    if name == "structured_outputs":
        other = next((key for key, one in value.items() if key != "json" and one is not None), None)
        if other is not None:
            raise RequestRefused("'structured_outputs' may hold 'json', a schema.", f"{name}.{other}")
        return None if value.get("json") is None else _as_schema(value["json"], f"{name}.json")
    kind = value.get("type")
    if kind not in _FORMS:
        raise RequestRefused(f"'response_format.type' must be one of {', '.join(_FORMS)}.", "response_format.type")
    if kind == "text":
        return None
    named = value.get("json_schema")
    # `schema` beside `type` is Together's place for it.
    schema = value.get("schema") or (named.get("schema") if isinstance(named, dict) else None)
    if schema is None and kind == "json_object":
        return {"type": "object"}
    if schema is None:
        raise RequestRefused("'response_format.json_schema.schema' is missing.", "response_format.json_schema.schema")
    return _as_schema(schema, "response_format.json_schema.schema")


def _as_schema(value: Any, param: str) -> Any:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            value = None
    if not isinstance(value, dict):
        raise RequestRefused(f"'{param}' must be a JSON schema: an object.", param)
    return value


def _cut_top(choice: dict[str, Any], top: int) -> dict[str, Any]:
    """The choice with as many alternatives to each token as were asked for."""
    tokens = [token | {"top_logprobs": token["top_logprobs"][:top]} for token in choice["logprobs"]["content"]]
    return choice | {"logprobs": {"content": tokens, "refusal": None}}


def _show_columns(choice: dict[str, Any], top: int) -> dict[str, Any]:
    """The choice with its logprobs in the shape of text completions."""
    tokens = choice["logprobs"]["content"]
    offsets, offset = [], 0
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    tops = [{other["token"]: other["logprob"] for other in token["top_logprobs"][:top]} for token in tokens]
    columns = {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": tops if top else None,
        "text_offset": offsets,
    }
    return choice | {"logprobs": columns}
