"""The table of members: whole in the eyes of the packages that send them, and shown as it is in `docs/members.md`."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from together.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as TogetherChatParams
from together.types.completion_create_params import CompletionCreateParamsNonStreaming as TogetherCompletionParams

from backfill.engines import Refused
from backfill.engines.builtin.exchange import Abilities, Exchange, open_exchange
from backfill.engines.builtin.members import Member, Treatment
from backfill.engines.builtin.tables import TABLES, Engine
from backfill.engines.llamacpp.dialect import translate
from tests.support.media import data_url, png

PAGE = Path(__file__).resolve().parents[3] / "docs" / "members.md"
CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
SENT: dict[str, tuple[Any, ...]] = {
    CHAT: (ChatParams, TogetherChatParams),
    COMPLETIONS: (CompletionParams, TogetherCompletionParams),
    EMBEDDINGS: (EmbeddingCreateParams,),
    RESPONSES: (ResponseCreateParamsNonStreaming,),
}
ENDPOINTS = [(engine, endpoint) for engine, tables in TABLES.items() for endpoint in tables]
HELLO = [{"role": "user", "content": "Hello!"}]
PAINT = {"name": "paint", "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": PAINT}]


@pytest.mark.parametrize(("engine", "endpoint"), ENDPOINTS)
def test_every_member_that_a_package_can_send_is_treated(engine: Engine, endpoint: str) -> None:
    sent = {
        name for params in SENT[endpoint] for base in params.__mro__ for name in getattr(base, "__annotations__", ())
    }
    assert sent, "the packages name their parameters otherwise now"
    assert sorted(sent - set(TABLES[engine][endpoint].members)) == []


def show(member: Member | None) -> str:
    if member is None:
        return "refused: unknown"
    if member.treatment is not Treatment.REFUSED:
        return f"{member.treatment}: {member.note}" if member.note else str(member.treatment)
    but = " or ".join(f"`{msgspec.json.encode(value).decode()}`" for value in member.harmless)
    return f"refused but {but}: {member.reason}" if but else f"refused: {member.reason}"


def write_tables() -> str:
    """The tables as the page has to have them."""
    lines: list[str] = []
    for endpoint in SENT:
        tables = {"OpenVINO": TABLES["openvino"].get(endpoint), "llama.cpp": TABLES["llamacpp"].get(endpoint)}
        serving = {name: table.members for name, table in tables.items() if table is not None}
        lines += [f"## `{endpoint}`", "", f"| member | {' | '.join(serving)} |", "|---|" + "---|" * len(serving)]
        for name in sorted({name for members in serving.values() for name in members}):
            cells = [show(members.get(name)) for members in serving.values()]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_shows_the_tables() -> None:
    shown = re.search(r"^## `/v1/.*", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert shown[0].strip() == write_tables().strip()


PARTS: dict[str, dict[str, Any]] = {
    "text": {"text": "x"},
    "refusal": {"refusal": "x"},
    "input_text": {"text": "x"},
    "output_text": {"text": "x"},
    "image_url": {"image_url": {"url": data_url(png())}},
    "input_image": {"image_url": data_url(png())},
    "image": {"source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
    "input_audio": {"input_audio": {"data": "UklGRg==", "format": "wav"}},
    "audio_url": {"audio_url": {"url": "data:audio/wav;base64,UklGRg=="}},
    "video_url": {"video_url": {"url": "data:video/mp4;base64,AAAA"}},
    "file": {"file": {"file_data": "data:application/pdf;base64,AAAA"}},
    "input_file": {"file_data": "data:application/pdf;base64,AAAA"},
}
KINDS: dict[str, tuple[Engine, bool]] = {
    "OpenVINO": ("openvino", False),
    "llama.cpp": ("llamacpp", False),
    "llama.cpp with a projector": ("llamacpp", True),
}


def list_part_cells() -> list[tuple[str, str, str, str]]:
    """Part, endpoint, kind of engine, and what the page says of it."""
    section = PAGE.read_text(encoding="utf-8").partition("## Parts of a message")[2].partition("\n## ")[0]
    cells_of = [[cell.strip().strip("`") for cell in row.strip("| \n").split("|")] for row in section.split("\n|")[1:]]
    (_, _, *kinds), _, *rows = cells_of
    assert kinds == list(KINDS)
    named = [(part, endpoint, dict(zip(kinds, cells, strict=True))) for part, endpoint, *cells in rows]
    return [(part, endpoint, kind, cell) for part, endpoint, cells in named for kind, cell in cells.items()]


@pytest.mark.parametrize(("part", "endpoint", "kind", "cell"), list_part_cells())
def test_parts_of_a_message_are_treated_as_the_page_says(part: str, endpoint: str, kind: str, cell: str) -> None:
    engine, sees = KINDS[kind]
    assert (cell == "not served") == (endpoint not in TABLES[engine])
    if cell == "not served":
        return
    message = {"role": "user", "content": [{"type": part} | PARTS[part]]}
    body = msgspec.json.encode({"model": "m", "messages" if endpoint == CHAT else "input": [message]})
    found = open_exchange(
        engine,
        endpoint,
        body,
        translate=translate if engine == "llamacpp" else None,
        abilities=Abilities(sees=sees),
    )
    assert cell == ("refused" if isinstance(found, Refused) else "honoured")
    if isinstance(found, Refused):
        error = msgspec.json.decode(found.body)["error"]
        assert error["param"].endswith("[0].content[0]")
        assert f"is a part of type '{part}'; this engine takes text" in error["message"]


def read_error(engine: Engine, endpoint: str, **members: Any) -> dict[str, Any]:
    found = open_exchange(
        engine,
        endpoint,
        msgspec.json.encode(members),
        translate=translate if engine == "llamacpp" else None,
        abilities=Abilities(has_tools=False),
    )
    assert isinstance(found, Refused), found
    error: dict[str, Any] = msgspec.json.decode(found.body)["error"]
    assert error["message"].endswith(".")
    return error


def open_chat(**members: Any) -> tuple[Exchange, Any]:
    body = msgspec.json.encode({"model": "m", "messages": HELLO} | members)
    found = open_exchange("llamacpp", CHAT, body, translate=translate)
    assert isinstance(found, Exchange), found
    return found, msgspec.json.decode(found.body)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES])
def test_a_plain_request_keeps_its_bytes(endpoint: str) -> None:
    plain = {
        CHAT: b'{ "model":"m","messages" : [{"role":"user","content":"x"}],"user":"u","n":null}',
        COMPLETIONS: b'{ "model":"m","prompt":"x", "temperature":0.50}',
        EMBEDDINGS: b'{ "model":"m","input":"x"}',
        RESPONSES: b'{ "model":"m","input":"x"}',
    }[endpoint]
    found = open_exchange("llamacpp", endpoint, plain, translate=translate)
    assert isinstance(found, Exchange)
    assert (found.body == plain) == (endpoint != RESPONSES)


@pytest.mark.parametrize(
    ("endpoint", "members", "param"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_tokens": -1}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"messages": HELLO, "n": 0}, "n"),
        (CHAT, {"messages": HELLO, "stop": 4}, "stop"),
        (CHAT, {"messages": HELLO, "temperature": -1}, "temperature"),
        (CHAT, {"messages": HELLO, "stream": 0}, "stream"),
        (CHAT, {"messages": HELLO, "logit_bias": {"cow": 1}}, "logit_bias"),
        (CHAT, {"messages": HELLO, "top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "yaml"}}, "response_format.type"),
        (CHAT, {"messages": HELLO, "grammar": "x", "guided_json": {}}, "grammar"),
        (CHAT, {"messages": HELLO, "tools": TOOLS}, "tools"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools[0].type"),
        (CHAT, {"messages": HELLO, "tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        (CHAT, {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        (
            CHAT,
            {"messages": HELLO, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
        ),
        (CHAT, {"messages": HELLO, "tools": TOOLS, "tool_choice": "required", "stop": "a"}, "stop"),
        (COMPLETIONS, {"prompt": ""}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "best_of": 2}, "best_of"),
        (EMBEDDINGS, {"input": "x", "encoding_format": "int8"}, "encoding_format"),
        (RESPONSES, {}, "input"),
        (RESPONSES, {"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        (RESPONSES, {"input": "x", "text": {"format": {"type": "grammar"}}}, "text.format.type"),
        (RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        (RESPONSES, {"input": "x", "text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
def test_values_that_llamacpp_would_take_in_silence(endpoint: str, members: dict[str, Any], param: str) -> None:
    assert read_error("llamacpp", endpoint, **members)["param"] == param


def test_one_is_not_true() -> None:
    assert read_error("openvino", CHAT, messages=HELLO, top_logprobs=False)["param"] == "top_logprobs"


def test_a_developer_speaks_as_the_system() -> None:
    _, sent = open_chat(messages=[{"role": "developer", "content": "x"}, *HELLO])
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


def test_a_forced_call_is_asked_for_as_its_arguments() -> None:
    found, sent = open_chat(tools=TOOLS, tool_choice="required")
    assert "tools" not in sent
    assert "tool_choice" not in sent
    assert sent["json_schema"] == PAINT["parameters"]
    assert "paint" in sent["messages"][0]["content"]
    choice = {"index": 0, "message": {"role": "assistant", "content": ' {"colour":"red"}\n'}, "finish_reason": "stop"}
    (finish,) = found.finish
    (made,) = finish({"choices": [choice]})["choices"]
    assert made["message"]["tool_calls"][0]["function"] == {"name": "paint", "arguments": '{"colour":"red"}'}
    assert (made["message"]["content"], made["finish_reason"]) == (None, "tool_calls")


def test_a_function_without_parameters_is_called_with_none() -> None:
    for parameters in (None, {}, {"type": "object", "properties": {}, "additionalProperties": False}):
        tools = [{"type": "function", "function": {"name": "wait", "parameters": parameters}}]
        assert open_chat(tools=tools, tool_choice="required")[1]["json_schema"] == {"const": {}}


def test_one_of_several_functions_is_called_by_its_name() -> None:
    others = [*TOOLS, {"type": "function", "function": {"name": "wait"}}]
    found, sent = open_chat(tools=others, tool_choice="required")
    assert [form["properties"]["name"] for form in sent["json_schema"]["anyOf"]] == [
        {"const": "paint"},
        {"const": "wait"},
    ]
    (finish,) = found.finish
    text = '{"name": "wait", "arguments": {}}'
    for reason, called in (("stop", "wait"), ("length", None)):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        (made,) = finish({"choices": [choice]})["choices"]
        assert made["finish_reason"] == ("tool_calls" if called else "length")
        assert [call["function"]["name"] for call in made["message"].get("tool_calls", ())] == [called] * bool(called)


def test_a_response_remembers_calls_and_what_they_gave() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "paint", "arguments": "{}"}
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "Paint."}]},
        {"type": "reasoning", "summary": []},
        call,
        call | {"call_id": "d"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]
    body = msgspec.json.encode({"model": "m", "input": given, "instructions": "Be good."})
    found = open_exchange("llamacpp", RESPONSES, body, translate=translate)
    assert isinstance(found, Exchange)
    assert found.endpoint == CHAT
    messages = msgspec.json.decode(found.body)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert [call["id"] for call in messages[2]["tool_calls"]] == ["c", "d"]
    assert messages[1]["content"] == "Paint."
