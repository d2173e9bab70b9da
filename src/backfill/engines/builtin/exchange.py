"""A request to a built-in engine and its answer, with what is put right before and after. Pure.

Most requests reach the engine byte for byte as they came.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backfill.engines.builtin.forced_calls import find_forced_call
from backfill.engines.builtin.members import Request, RequestRefused
from backfill.engines.builtin.messages import check_messages
from backfill.engines.builtin.responses import make_chat, make_response
from backfill.engines.builtin.tables import TABLES, Engine
from backfill.engines.interpret import refuse
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply

__all__ = ["TEXT_ONLY", "Abilities", "Exchange", "Finish", "Translate", "map_choices", "open_exchange"]

_CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_RESPONSES: Final = "/v1/responses"

Finish = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the answer that was asked for of the one that the engine gave."""
Translate = Callable[[str, dict[str, Any]], tuple[dict[str, Any], tuple[Finish, ...]]]
"""From endpoint and members to the members in the engine's words, and what is then done with the answer."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the model that runs is able to do."""

    has_tools: bool = True
    """Its chat template has a place for tools; where that is not known here, the engine finds out."""
    sees: bool = False
    """It takes pictures."""


TEXT_ONLY: Final = Abilities()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What to send to the engine for a request, and what to make of its answer."""

    endpoint: str
    body: bytes
    finish: tuple[Finish, ...] = ()
    """Each makes an answer of the answer before."""

    def close(self, reply: Reply) -> Reply:
        """The reply to the request, from the one to what was sent."""
        if not self.finish or not isinstance(reply, Answered):
            return reply
        try:
            answer = msgspec.json.decode(reply.body)
            for step in self.finish:
                answer = step(answer)
        except (msgspec.DecodeError, RecursionError, LookupError, TypeError, AttributeError, ValueError) as error:
            return Lost(
                LostReason.BAD_ANSWER, f"The engine's answer is not as it was asked for: {error}.", reply.status
            )
        return Answered(reply.status, msgspec.json.encode(answer), reply.usage)


def open_exchange(
    engine: Engine, endpoint: str, body: bytes, *, translate: Translate | None = None, abilities: Abilities = TEXT_ONLY
) -> Exchange | Refused:
    """What to send for this request, or why it is refused.

    `translate` puts members into the engine's own words.
    """
    try:
        request = TABLES[engine][endpoint].read(body)
        return _open(request, endpoint, body, translate or _keep, abilities)
    except RequestRefused as error:
        return refuse(error.message, param=error.param, code=error.code)


def _open(request: Request, endpoint: str, body: bytes, translate: Translate, abilities: Abilities) -> Exchange:
    values = request.values
    given = {name: value for name in values.__struct_fields__ if (value := getattr(values, name)) is not None}
    finish: tuple[Finish, ...] = ()
    last: tuple[Finish, ...] = ()
    members = given
    if endpoint == _RESPONSES:
        endpoint, members = _CHAT, make_chat(request, sees=abilities.sees)
        last = (lambda answer: make_response(answer, request),)
    if endpoint == _CHAT:
        members, finish = _prepare_chat(members, abilities)
    elif endpoint == _COMPLETIONS and members.get("best_of", members.get("n", 1)) != members.get("n", 1):
        raise RequestRefused("'best_of' must equal 'n': all choices that are computed are returned.", "best_of")
    members, translated = translate(endpoint, members)
    sent = body if members == given else msgspec.json.encode(members)
    return Exchange(endpoint, sent, (*translated, *finish, *last))


def _keep(_endpoint: str, members: dict[str, Any]) -> tuple[dict[str, Any], tuple[Finish, ...]]:
    return members, ()


def _prepare_chat(members: dict[str, Any], abilities: Abilities) -> tuple[dict[str, Any], tuple[Finish, ...]]:
    """The members to send in place of these, and what is done with the answer."""
    if "messages" not in members:
        raise RequestRefused("'messages' is missing.", "messages")
    call = find_forced_call(members)
    messages = check_messages(members["messages"], has_tools=abilities.has_tools, sees=abilities.sees)
    if messages is not members["messages"]:
        members = members | {"messages": messages}
    if members.get("tool_choice") == "none":
        # A model that is shown tools would use them.
        members = {name: value for name, value in members.items() if name not in ("tools", "tool_choice")}
    if call is None:
        if members.get("tools") and not abilities.has_tools:
            raise RequestRefused("The model's chat template has no place for 'tools'.", "tools")
        return members, ()
    return call.rewrite(members), (lambda answer: map_choices(answer, call.finish),)


def map_choices(answer: dict[str, Any], step: Finish) -> dict[str, Any]:
    """The answer with what `step` makes of each choice."""
    return answer | {"choices": [step(choice) for choice in answer["choices"]]}
