"""What a request names is found wherever it may stand, and its bytes come there and nowhere else."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.media_file import MediaKind
from backfill.wire import HAS_MEDIA, ParsedLine, ReferenceFault, find_references, parse_line, put_in

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
AUDIO = "/v1/audio/transcriptions"
LINK = "https://example.com/a.png?key=1"
PNG = "data:image/png;base64,iVBORw0="


def encode(body: object) -> bytes:
    return json.dumps(body).encode()


def in_message(*parts: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": list(parts)}]}


PART = "body.messages[1].content[0]"
FORMS: list[tuple[dict[str, object], str, str, dict[str, object]]] = [
    (
        {"type": "image_url", "image_url": {"url": LINK, "detail": "low"}},
        LINK,
        f"{PART}.image_url.url",
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
    ),
    ({"image_url": LINK}, LINK, f"{PART}.image_url", {"image_url": PNG}),
    (
        {"type": "image_url", "image_url": {"file_id": "file-1"}},
        "file-1",
        f"{PART}.image_url.file_id",
        {"type": "image_url", "image_url": {"url": PNG}},
    ),
    (
        {"type": "input_image", "image_url": LINK, "detail": "high"},
        LINK,
        f"{PART}.image_url",
        {"type": "input_image", "image_url": PNG, "detail": "high"},
    ),
    (
        {"type": "input_image", "image_url": None, "file_id": "file-1"},
        "file-1",
        f"{PART}.file_id",
        {"type": "input_image", "image_url": PNG},
    ),
    (
        {"type": "image", "source": {"type": "url", "url": LINK}},
        LINK,
        f"{PART}.source.url",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}},
    ),
    (
        {"type": "image", "source": {"type": "file", "file_id": "file-1"}},
        "file-1",
        f"{PART}.source.file_id",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}},
    ),
    (
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "UklG"}},
        "data:image/webp;base64,UklG",
        f"{PART}.source.data",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}},
    ),
    (
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": LINK}}]},
        LINK,
        f"{PART}.content[0].source.url",
        {
            "type": "tool_result",
            "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}],
        },
    ),
]


@pytest.mark.parametrize(("part", "source", "param", "changed"), FORMS)
def test_a_picture_is_found_and_put_in_in_each_form(
    part: dict[str, object], source: str, param: str, changed: dict[str, object]
) -> None:
    body = encode(in_message(part))
    (found,) = find_references(CHAT, body)
    assert (found.kind, found.source, found.param) == (MediaKind.PICTURE, source, param)
    assert json.loads(put_in(CHAT, body, {source: PNG})) == in_message(changed)
    assert put_in(CHAT, body, {}) == body
    assert put_in(CHAT, body, {"https://example.com/other": PNG}) == body
    assert put_in(CHAT, body, {source: source}) == body


def test_a_clip_is_named_as_a_url_and_put_in_in_its_own_form() -> None:
    body = encode(in_message({"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}}))
    (found,) = find_references(CHAT, body)
    assert (found.kind, found.source) == (MediaKind.AUDIO, "data:audio/mpeg;base64,SUQz")
    assert found.param == f"{PART}.input_audio.data"
    assert json.loads(put_in(CHAT, body, {found.source: "data:audio/wav;base64,UklG"})) == in_message(
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
    )
    assert json.loads(put_in(CHAT, body, {found.source: "data:audio/mpeg;base64,AA=="})) == in_message(
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}
    )


@pytest.mark.parametrize("name", ["file", "file_url"])
@pytest.mark.parametrize("source", ["https://example.com/a.mp3", "data:audio/wav;base64,UklG", "file-1"])
def test_an_audio_endpoint_has_one_clip_and_others_have_no_file(name: str, source: str) -> None:
    body = encode({"model": "m", name: source, "messages": [{"content": [{"image_url": LINK}]}]})
    (found,) = find_references(AUDIO, body)
    assert (found.kind, found.source, found.param) == (MediaKind.AUDIO, source, f"body.{name}")
    (other,) = find_references(CHAT, body)
    assert other.source == LINK


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": LINK}]}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": LINK}]}]},
        {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": LINK}}]},
        {"input": [{"type": "image_url", "image_url": {"url": LINK}}]},
        {"query": "q", "documents": {"content": [{"type": "image_url", "image_url": {"url": LINK}}]}},
        {"query": "q", "documents": ["a", {"content": [{"image_url": LINK}]}]},
        {"text_1": {"content": [{"image_url": LINK}]}, "text_2": "b"},
        {"messages": [{"content": [{"type": "audio_url", "audio_url": {"url": LINK}}]}]},
    ],
)
def test_it_is_found_wherever_an_engine_would_look(body: dict[str, Any]) -> None:
    endpoint = RESPONSES if {"input", "messages"} & body.keys() else "/v1/score"
    for where in (endpoint, "/v1/one-of-the-operators-own"):
        (found,) = find_references(where, encode(body))
        assert found.source == LINK
        assert PNG in put_in(where, encode(body), {LINK: PNG}).decode()


@pytest.mark.parametrize(
    "body",
    [
        in_message({"type": "text", "text": LINK}),
        in_message({"type": "tool_use", "input": {"image_url": LINK}}),
        {"tools": [{"function": {"parameters": {"image_url": LINK}}}], "messages": [{"content": "x"}]},
        {"metadata": {"image_url": LINK}, "input": "image_url"},
        {"messages": [{"content": "x", "tool_calls": [{"function": {"arguments": '{"image_url":"https://x"}'}}]}]},
        {"file": LINK},
        {"input": [[1, 2], [3]]},
        {},
    ],
)
def test_what_only_looks_like_one_is_none(body: dict[str, object]) -> None:
    assert find_references(CHAT, encode(body)) == ()
    assert put_in(CHAT, encode(body), {LINK: PNG}) == encode(body)


@pytest.mark.parametrize(
    ("endpoint", "body", "param", "words"),
    [
        (CHAT, in_message({"type": "image_url", "image_url": 5}), f"{PART}.image_url", "a URL, or an object with a"),
        (CHAT, in_message({"type": "image_url", "image_url": {}}), f"{PART}.image_url", "a URL, or an object with a"),
        (CHAT, in_message({"type": "image_url", "image_url": ""}), f"{PART}.image_url", "and not empty"),
        (CHAT, in_message({"image_url": {"url": [LINK]}}), f"{PART}.image_url.url", "must be a string"),
        (CHAT, in_message({"type": "image_url"}), f"{PART}.image_url", "needs image_url"),
        (CHAT, in_message({"type": "input_image"}), f"{PART}.image_url", "needs image_url or file_id"),
        (CHAT, in_message({"input_audio": "AA"}), f"{PART}.input_audio", "an object with data and format"),
        (CHAT, in_message({"input_audio": {"data": "AA"}}), f"{PART}.input_audio.format", "must be a string"),
        (CHAT, in_message({"type": "image", "source": "x"}), f"{PART}.source", "an object with a type"),
        (CHAT, in_message({"type": "image", "source": {"type": "x"}}), f"{PART}.source.type", "base64, url or file"),
        (CHAT, in_message({"type": "image", "source": {"type": "url"}}), f"{PART}.source.url", "must be a string"),
        (AUDIO, {"file": LINK, "file_url": LINK}, "body.file_url", "a request has one of them"),
        (AUDIO, {"file": 5}, "body.file", "must be a string"),
        (CHAT, {"messages": [{"content": json.loads("[" * 20 + "]" * 20)}]}, None, "nested too deeply"),
    ],
)
def test_a_form_that_says_nothing_is_told_where(
    endpoint: str, body: dict[str, object], param: str | None, words: str
) -> None:
    with pytest.raises(ReferenceFault) as caught:
        find_references(endpoint, encode(body))
    problem = caught.value.problem
    assert problem.code == "invalid_media"
    assert words in problem.message
    assert param is None or problem.param == param
    assert param is None or param in problem.message or "needs" in problem.message


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": LINK}},
        {"type": "input_file", "file_url": LINK},
        {"type": "file", "file": {"file_url": LINK}},
        {"type": "document", "source": {"type": "url", "url": LINK}},
    ],
)
def test_a_link_to_something_else_is_refused_unless_the_engine_may_fetch(part: dict[str, object]) -> None:
    body = encode(in_message(part))
    with pytest.raises(ReferenceFault, match="only pictures and audio are fetched"):
        find_references(CHAT, body)
    assert find_references(CHAT, body, passes_links=True) == ()
    assert find_references(CHAT, body.replace(LINK.encode(), b"data:video/mp4;base64,AA")) == ()


def test_what_is_no_object_is_a_fault_too() -> None:
    for body in (b"[]", b"x", b'{"messages":'):
        with pytest.raises(ReferenceFault):
            find_references(CHAT, body)


URLS = st.sampled_from([LINK, "https://example.com/b", "http://c", "data:image/png;base64,AAAA", "file-1", 'é"\\u'])
TEXTS = st.sampled_from(["hi", LINK, 'say "https://example.com/b"', "é\\"])
VALUES = st.recursive(st.none() | st.integers() | TEXTS | st.booleans(), lambda inner: st.lists(inner, max_size=2))
PARTS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    st.tuples(URLS, VALUES).map(lambda drawn: {"type": "image_url", "x": drawn[1], "image_url": {"url": drawn[0]}}),
    URLS.map(lambda url: {"type": "input_image", "image_url": url}),
    URLS.map(lambda url: {"type": "image_url", "image_url": {"detail": "low", "url": url}}),
    URLS.map(lambda url: {"type": "tool_result", "content": [{"image_url": url}]}),
)
CONTENTS = st.one_of(TEXTS, st.none(), st.lists(PARTS, max_size=4))
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENTS}), max_size=4)
BODIES = st.fixed_dictionaries(
    {"model": TEXTS, "x": VALUES}, optional={"messages": MESSAGES, "input": MESSAGES, "y": VALUES, "image_url": URLS}
)


def replace(value: Any, urls: Mapping[str, str], found: list[str]) -> Any:
    """What should become of a value: the same, done the obvious way."""
    if isinstance(value, list):
        return [replace(each, urls, found) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {}
    for name, member in value.items():
        if name == "image_url":
            url = member["url"] if isinstance(member, dict) else member
            found.append(url)
            new = urls.get(url, url)
            changed[name] = {**member, "url": new} if isinstance(member, dict) else new
        else:
            changed[name] = replace(member, urls, found) if name == "content" else member
    return changed


@given(BODIES, st.dictionaries(URLS, st.sampled_from([PNG, "data:image/gif;base64,R0lG"])))
def test_each_is_found_once_and_all_else_stays(body: dict[str, Any], urls: dict[str, str]) -> None:
    found: list[str] = []
    wanted = {
        name: replace(value, urls, found) if name in {"messages", "input"} else value for name, value in body.items()
    }
    data = encode(body)
    assert sorted(each.source for each in find_references(CHAT, data)) == sorted(found)
    changed = put_in(CHAT, data, urls)
    assert json.loads(changed) == wanted
    if not set(found) & set(urls):
        assert changed == data


NAMES = st.sampled_from(
    [
        "type",
        "content",
        "output",
        "image_url",
        "url",
        "file_id",
        "source",
        "input_audio",
        "data",
        "format",
        "detail",
        "file",
        "file_url",
        "video_url",
        "audio_url",
        "media_type",
        "messages",
        "input",
        "query",
        "documents",
        "text_1",
    ]
)
KINDS = st.sampled_from(["image", "image_url", "input_image", "base64", "url", "file", "document", "tool_use", LINK])
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | KINDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, ODD), st.sampled_from([CHAT, RESPONSES, AUDIO, "/v1/rerank"]))
def test_whatever_a_request_is_it_names_something_or_is_told_what_is_wrong(body: dict[str, Any], endpoint: str) -> None:
    data = encode(body)
    parsed = parse_line(b'{"custom_id":"a","body":%b}' % data, 64)
    assert isinstance(parsed, ParsedLine)
    assert 0 <= parsed.token_estimate < 10**6
    with contextlib.suppress(ReferenceFault):
        check_found(data, endpoint, parsed)


def check_found(data: bytes, endpoint: str, parsed: ParsedLine) -> None:
    found = find_references(endpoint, data)
    for reference in found:
        assert json.dumps(reference.source)[1:-1].encode() in data or reference.source.startswith("data:")
        assert find_references(endpoint, put_in(endpoint, data, {reference.source: PNG}))
    # What is named is never overlooked at intake.
    if found and endpoint != AUDIO:
        assert parsed.shape & HAS_MEDIA


@given(BODIES)
def test_what_is_not_on_the_way_to_a_picture_keeps_its_bytes(body: dict[str, Any]) -> None:
    spaced = json.dumps(body["x"], indent=3).replace("\n", "  ")
    data = b'{"model": "m", "x":  %b, "messages":[{"content":[{"image_url":"%b"}, { "text" : 1.0e1 }]}]}' % (
        spaced.encode(),
        LINK.encode(),
    )
    changed = put_in(CHAT, data, {LINK: PNG})
    assert changed == b'{"model":"m","x":%b,"messages":[{"content":[{"image_url":"%b"},{ "text" : 1.0e1 }]}]}' % (
        spaced.encode(),
        PNG.encode(),
    )
