"""One input line: what is kept of a good one, and what is said of a bad one."""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import ENDPOINTS, BatchProblem
from backfill.index import PREFIX_LEVELS
from backfill.wire import (
    HAS_FILE,
    HAS_MEDIA,
    Fault,
    ParsedLine,
    find_request_problem,
    find_target_problem,
    parse_line,
    read_fault,
)

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = ENDPOINTS[:4]
GOOD = {"custom_id": "a", "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}}


def parse(line: bytes | dict[str, object]) -> ParsedLine | BatchProblem:
    return parse_line(json.dumps(line).encode() if isinstance(line, dict) else line, 64)


def test_a_good_line_says_where_its_body_lies() -> None:
    line = json.dumps(GOOD).encode()
    parsed = parse(line)
    assert isinstance(parsed, ParsedLine)
    assert (parsed.custom_id, parsed.model) == ("a", "m")
    assert json.loads(line[parsed.body_start : parsed.body_start + parsed.body_length]) == GOOD["body"]
    assert parsed.token_estimate == parsed.body_length // 4 + 7


@pytest.mark.parametrize(
    "line",
    [
        b'{"body":{"model":"m"},"custom_id":"a"}',
        b'{"custom_id":"a","body":{"model":"m"}}  \r',
        b'  {"custom_id" : "a" , "method":"POST", "body" : {"model":"m"} , "url":"/v1/x"}',
        b'{"body":{"model":"m"},"custom_id":"a","extra":{"body":{"model":"m"}}}',
        b'{"custom_id":"a","body":{"model":"m"},"extra":{"body":{}}}',
        b'{"custom_id":"a","body":{"model":"no"},"body":{"model":"m"}}',
        b'{"custom_id":"a","body":null,"body":{"model":"m"}}',
        b'{"custom_id":"a","note":"\\"body\\":{","body":{"model":"m"}}',
        b'{"custom_id":"a","extra":{"body":{}},"body":{"model":"m"}}',
        b'{"custom_id":"a","body": {"model":"m"}}',
        b'{"custom_id":"a","body":  {"model":"m"}}',
        b'{"custom_id":"a","x\\"body":{},"body":{"model":"m"}}',
    ],
)
def test_the_body_is_found_wherever_it_stands(line: bytes) -> None:
    parsed = parse(line)
    assert isinstance(parsed, ParsedLine)
    assert line[parsed.body_start : parsed.body_start + parsed.body_length] == b'{"model":"m"}'


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b"{", "invalid_json_line", "it ends after byte 1, where a member's name in double quotes is expected"),
        (b"[]", "invalid_json_line", "must be a JSON object with custom_id and body; it is an array"),
        (b"null", "invalid_json_line", "it is null"),
        (b'{"custom_id":"a","body":{"x":"\xff"}}', "invalid_json_line", "not valid UTF-8: byte 31 is 0xFF"),
        (b"{'a':1}", "invalid_json_line", "at byte 2 a member's name in double quotes is expected, not \"'\""),
        (b'{"\xc3\xa9" 1}', "invalid_json_line", 'at byte 7 a colon is expected, not "1"'),
        (b'{"a":1,"b" 2}', "invalid_json_line", "at byte 12 a colon"),
        (b'{"a":[1,2', "invalid_json_line", "it ends after byte 9, where a comma or the closing bracket"),
        (b'{"a":"text}', "invalid_json_line", "the string that begins at byte 6 has no closing quote"),
        (
            b'{"a":"x\ty"}',
            "invalid_json_line",
            r"byte 8 is the control character U+0009; in a string it must be written as \t",
        ),
        (b'{"a":"\\q"}', "invalid_json_line", "the escape at byte 7 is none"),
        (b'{"a":NaN}', "invalid_json_line", "byte 6 begins NaN"),
        (b'{"NaN":["NaN",-Infinity]}', "invalid_json_line", "byte 15 begins -Infinity"),
        (b"{}{}", "invalid_json_line", "it is complete before byte 3"),
        (b"{}\0\0", "invalid_json_line", "byte 3 is NUL"),
        (b"\0\0\0", "invalid_json_line", "3 NUL bytes and nothing else"),
        (b"\xef\xbb\xbf{}", "invalid_json_line", "byte order mark"),
        (b'{"custom_id":"a","body":{"x":' + b"[" * 100_000, "invalid_json_line", "nested too deeply"),
        (b'{"body":{}}', "missing_custom_id", "custom_id is missing"),
        (b'{"custom_id":"\\ud83d","body":{}}', "invalid_custom_id", "half a character"),
        (b'{"custom_id":"%b","body":5}' % (b"x" * 65), "invalid_custom_id", "65"),
        (b'{"custom_id":5,"body":{}}', "invalid_custom_id", "must be a string"),
        (b'{"custom_id":"","body":{}}', "invalid_custom_id", "1 to 64"),
        (b'{"custom_id":"%b","body":{}}' % (b"x" * 65), "invalid_custom_id", "65"),
    ],
)
def test_a_line_that_is_no_request_is_told_what_is_wrong(line: bytes, code: str, words: str) -> None:
    problem = parse(line)
    assert isinstance(problem, BatchProblem)
    assert problem.code == code
    assert words in problem.message


def find_problem(line: bytes | dict[str, object], endpoint: str = CHAT) -> BatchProblem | None:
    """Why the request of a line is not sent."""
    parsed = parse(line)
    assert isinstance(parsed, ParsedLine)
    return parsed.problem or find_request_problem(parsed.shape, endpoint, has_model=parsed.model is not None)


def with_body(members: bytes) -> bytes:
    return b'{"custom_id":"a","body":{"model":"m","messages":[{"content":"hi"}],%b}}' % members


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b'{"custom_id":"a"}', "missing_body", "body is missing"),
        (b'{"custom_id":"a","params":{"model":"m"}}', "missing_body", "rename params to body"),
        (b'{"custom_id":"a","params":5}', "missing_body", "body is missing: "),
        (b'{"custom_id":"a","body":"text"}', "invalid_body", "JSON object"),
        (b'{"custom_id":"a","body" :null,"x\\"body":{"model":"m"}}', "invalid_body", "JSON object"),
        (b'{"custom_id":"a","body":{"model":5}}', "invalid_model", "body.model must be a string"),
        (with_body(b'"stream":true'), "invalid_request", "body.stream"),
        (with_body(b'"x":"\\\\ud83d \\ud83d"'), "invalid_request", r"body.x: \ud83d at byte 81 of the line"),
        (with_body(b'"x":["\\ud83d\\ude00",{"y":"\\ude00"}]'), "invalid_request", r"body.x[1].y: \ude00 at byte 94"),
        (with_body(b'"\\ud83dx":1'), "invalid_request", r"body.\ud83dx: \ud83d at byte 69"),
        (
            with_body(b'"n":["1e999"],"temperature":1e999'),
            "invalid_request",
            "body.temperature: the number 1e999 at byte 96",
        ),
        (
            with_body(b'"seed":' + b"9" * 5000),
            "invalid_request",
            "body.seed: the number 99999999999999999999… at byte 75",
        ),
        (b'{"custom_id":5,"custom_id":"a","body":{}}', "invalid_request", 'The member "custom_id" stands twice'),
        (b'{"custom_id":"a","body":{"messages":[1]}}', "missing_model", "body.model is missing"),
        (b'{"custom_id":"a","body":{"model":"m","messages":[]}}', "invalid_request", "needs body.messages"),
        (b'{"custom_id":"a","body":{"model":"m","messages":"hi"}}', "invalid_request", "needs body.messages"),
    ],
)
def test_a_request_that_cannot_be_sent_is_told_why_and_keeps_its_name(line: bytes, code: str, words: str) -> None:
    parsed, problem = parse(line), find_problem(line)
    assert isinstance(parsed, ParsedLine)
    assert parsed.custom_id == "a"
    assert problem is not None
    assert problem.code == code
    assert words in problem.message


@pytest.mark.parametrize(
    "members",
    [
        b",".join(b'"%d":0' % number for number in range(100_000)) + b',"7":1,"x":"\\ud83d"',
        b'"' + b"k" * 1_000_000 + b'":[' + b",".join([b"0"] * 100_000) + b'],"x":"\\ud83d"',
        b'"x":"' + b"\\\\" * 500_000 + b'\\ud83d"',
    ],
    ids=["many members", "a long name", "many escapes"],
)
def test_what_is_said_of_a_large_line_costs_no_more_than_reading_it(members: bytes) -> None:
    # Each would take minutes if its members were compared, or its names copied, pair by pair.
    problem = find_problem(with_body(members))
    assert problem is not None
    assert problem.message.startswith(r"body.x: \ud83d at byte ")
    assert len(problem.message) < 500


def test_deep_nesting_ends_in_an_answer() -> None:
    for depth in range(10, 3000, 70):
        for inner in (b'"\\ud83d"', b"NaN", b"1"):
            line = with_body(b'"x":' + b'{"y":' * depth + inner + b"}" * depth)
            assert isinstance(parse(line), ParsedLine | BatchProblem)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (("POST", CHAT), None),
        (("POST", "/chat/completions"), None),
        ((None, CHAT), 'method is missing; each line needs "method": "POST".'),
        (("GET", CHAT), 'method must be "POST"; got "GET".'),
        (("POST", None), f'url is missing; each line needs "url": "{CHAT}"'),
        (("POST", EMBEDDINGS), f'url must be the batch\'s endpoint {CHAT}; got "{EMBEDDINGS}".'),
        (("POST", "x" * 5000), "…"),
    ],
)
def test_what_is_said_of_method_and_url(target: tuple[str | None, str | None], words: str | None) -> None:
    problem = find_target_problem(target, CHAT)
    assert (problem is None) is (words is None)
    if problem is not None and words is not None:
        assert words in problem.message
        assert len(problem.message) < 200


def test_a_custom_id_counts_characters_not_bytes() -> None:
    assert isinstance(parse({"custom_id": "é" * 64, "body": {}}), ParsedLine)


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"messages": [{}]}, {CHAT}),
        ({"messages": []}, set()),
        ({"messages": "hello"}, set()),
        ({"prompt": "p"}, {COMPLETIONS}),
        ({"prompt": ""}, set()),
        ({"input": ["a", "b"]}, {EMBEDDINGS, RESPONSES}),
        ({"input": None}, set()),
        ({"prompt": "p", "input": "i"}, {COMPLETIONS, EMBEDDINGS, RESPONSES}),
    ],
)
def test_the_members_decide_which_endpoints_a_line_fits(body: dict[str, object], fits: set[str]) -> None:
    parsed = parse({"custom_id": "a", "body": body})
    assert isinstance(parsed, ParsedLine)
    assert {
        endpoint for endpoint in ENDPOINTS[:4] if find_request_problem(parsed.shape, endpoint, has_model=True) is None
    } == fits


def facts(**body: object) -> ParsedLine:
    parsed = parse({"custom_id": "a", "body": body})
    assert isinstance(parsed, ParsedLine)
    return parsed


def shared_levels(one: ParsedLine, other: ParsedLine) -> int:
    """How many beginnings two lines share; those that they share come first."""
    same = [first == second != 0 for first, second in zip(one.prefix_hashes, other.prefix_hashes, strict=True)]
    assert same == sorted(same, reverse=True)
    return sum(same)


@pytest.mark.parametrize(
    ("size", "reached"),
    [(255, 0), (256, 1), (511, 1), (512, 2), (1023, 2), (1024, 3), (32767, 7), (32768, 8), (100_000, 8)],
)
@pytest.mark.parametrize("member", ["messages", "prompt", "input"])
def test_each_beginning_that_the_prompt_reaches_has_a_hash(member: str, size: int, reached: int) -> None:
    prompt = ["x" * (size - 4)] if member == "messages" else "x" * (size - 2)
    hashes = facts(**{member: prompt}).prefix_hashes
    assert len(hashes) == PREFIX_LEVELS
    assert [number != 0 for number in hashes] == [True] * reached + [False] * (PREFIX_LEVELS - reached)


@pytest.mark.parametrize(("alike", "levels"), [(100, 0), (300, 1), (600, 2), (5000, 5), (40_000, 8)])
def test_prompts_that_begin_alike_share_hashes_as_far_as_that(alike: int, levels: int) -> None:
    one, other = ([{"content": "x" * alike + letter * 40_000}] for letter in "ab")
    assert shared_levels(facts(messages=one), facts(messages=other)) == levels


def test_tools_stand_before_the_messages_and_other_members_do_not_count() -> None:
    messages = [{"content": "x" * 600}]
    plain, tools = facts(messages=messages), facts(messages=messages, tools=[{"name": "f"}])
    assert shared_levels(plain, facts(model="m", messages=messages, tools=[], max_tokens=3)) == 2
    assert shared_levels(plain, tools) == 0
    assert shared_levels(tools, facts(temperature=1, tools=[{"name": "f"}], messages=messages)) == 2


@pytest.mark.parametrize(
    ("body", "is_deterministic"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 1, "seed": 5}, True),
        ({"seed": 0}, True),
        ({}, False),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"temperature": "0"}, False),
        ({"temperature": None, "seed": None}, False),
        ({"seed": True}, False),
        ({"seed": 1.0}, False),
    ],
)
def test_only_a_request_that_gives_the_same_answer_each_time_has_a_digest(
    body: dict[str, object], is_deterministic: bool
) -> None:
    assert (facts(**body).body_digest != 0) is is_deterministic
    assert facts(**body).body_digest == facts(**body).body_digest
    assert not is_deterministic or facts(**body).body_digest != facts(prompt="p", **body).body_digest


@pytest.mark.parametrize(
    ("body", "answer_tokens"),
    [
        ({}, 256),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8, "max_tokens": 7}, 8),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": "many"}, 256),
        ({"max_tokens": -1}, 256),
        ({"max_tokens": 2**40}, 2**31),
    ],
)
def test_the_limit_of_the_answer_is_how_long_it_is_expected_to_be(body: dict[str, object], answer_tokens: int) -> None:
    assert facts(**body).answer_tokens == answer_tokens


PICTURE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
TEXT = {"type": "text", "text": "see image_url [1] [{"}


@pytest.mark.parametrize(
    ("body", "has_media"),
    [
        ({"messages": [{"content": "[{image_url}] [a] [b] [c] [d]"}]}, False),
        ({"messages": [{"content": '[{"type":"image_url","image_url":{"url":"https://x"}}]'}]}, False),
        ({"messages": [{"content": [TEXT, TEXT]}, {"content": [TEXT]}]}, False),
        ({"messages": [{"content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}]}, False),
        ({"messages": [{"content": [{"type": "tool_use", "input": {"image_url": "https://x"}}]}]}, False),
        ({"messages": [{"content": "x"}], "tools": [{"properties": {"image_url": {"type": "string"}}}]}, False),
        ({"messages": [{"content": [TEXT, PICTURE]}]}, True),
        ({"messages": [{"content": "hi"}, {"content": [PICTURE]}], "tools": [{}]}, True),
        ({"messages": [{"content": [{"image_url": "https://x"}]}]}, True),
        ({"messages": [{"content": [{"type": "image_url", "image_url": 5}]}]}, True),
        ({"messages": [{"content": [{"type": "tool_result", "content": [PICTURE]}]}]}, True),
        ({"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]}, True),
        ({"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}]}, True),
        ({"messages": ["text", {"content": [PICTURE]}]}, True),
        ({"messages": [{"content": {"a": [PICTURE], "image_url": "https://x"}}]}, True),
        ({"input": "[{image_url}]"}, False),
        ({"input": ["a {", "b ["]}, False),
        ({"input": [[1, 2], [3]]}, False),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}, False),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]}, True),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": "u"}]}]}, True),
        ({"input": [{"type": "function_call_output", "output": "image_url"}]}, False),
        ({"input": [PICTURE]}, True),
        ({"query": "q", "documents": ["a", "b"]}, False),
        ({"query": "q", "documents": {"content": [PICTURE]}}, True),
        ({"file": "https://x/a.mp3"}, False),
    ],
)
@pytest.mark.parametrize("write", [json.dumps, lambda body: json.dumps(body, indent=1).replace("\n", "\t ")])
def test_a_line_that_names_a_picture_or_a_clip_is_known_by_its_shape(
    body: dict[str, object], has_media: bool, write: Callable[[object], str]
) -> None:
    parsed = parse(b'{"custom_id":"a","body":%b}' % write(body).encode())
    assert isinstance(parsed, ParsedLine)
    assert bool(parsed.shape & HAS_MEDIA) is has_media
    if has_media and "messages" in body:
        escaped = write(body).replace("image", "im\\u0061ge").replace("type", "typ\\u0065")
        escaped = escaped.replace("content", "conten\\u0074").replace("_url", "\\u005fur\\u006c")
        again = parse(b'{"custom_id":"a","body":%b}' % escaped.encode())
        assert isinstance(again, ParsedLine)
        assert again.shape & HAS_MEDIA


@pytest.mark.parametrize(
    ("body", "has_file"),
    [
        ({"file": "https://x/a.mp3"}, True),
        ({"file_url": "data:audio/wav;base64,AA=="}, True),
        ({"file": "", "file_url": None}, False),
        ({"messages": [{"content": "x"}], "file": "file-1"}, True),
        ({"messages": [{"content": "x"}]}, False),
        ({"input": "x"}, False),
    ],
)
def test_a_line_with_a_file_is_known_by_its_shape(body: dict[str, object], has_file: bool) -> None:
    assert bool(facts(**body).shape & HAS_FILE) is has_file
    assert (find_request_problem(facts(**body).shape, "/v1/audio/translations", has_model=True) is None) is has_file


@pytest.mark.parametrize(
    ("endpoint", "good", "bad", "name"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, {"query": "q"}, "query"),
        ("/v1/score", {"text_1": "a", "text_2": ["b"]}, {"text_1": "a"}, "text_1"),
        ("/v1/score", {"query": "q", "documents": ["a"]}, {"documents": ["a"]}, "text_1"),
        ("/v1/moderations", {"input": "a"}, {"messages": [{}]}, "input"),
        ("/v1/messages", {"messages": [{}]}, {"prompt": "x"}, "messages"),
        ("/v1/images/generations", {"prompt": "x"}, {"input": "x"}, "prompt"),
    ],
)
def test_what_an_endpoint_cannot_do_without(
    endpoint: str, good: dict[str, object], bad: dict[str, object], name: str
) -> None:
    assert find_request_problem(facts(**good).shape, endpoint, has_model=True) is None
    problem = find_request_problem(facts(**bad).shape, endpoint, has_model=True)
    assert problem is not None
    assert problem.param == f"body.{name}"


def test_an_endpoint_of_which_nothing_is_known_takes_what_is_no_fault() -> None:
    assert find_request_problem(facts(x=1).shape, "/v1/whatever", has_model=True) is None
    assert find_request_problem(facts(x=1, stream=True).shape, "/v1/whatever", has_model=True) is not None


def test_the_bytes_of_a_picture_are_no_text() -> None:
    url = "data:image/png;base64," + "A" * 400_000

    def estimate(*parts: object, **members: object) -> int:
        return facts(messages=[{"role": "user", "content": [TEXT, *parts]}], **members).token_estimate - 256

    text = estimate()
    assert estimate(PICTURE) == pytest.approx(text + 1100, abs=30)
    assert estimate({"type": "image_url", "image_url": {"url": url}}) == pytest.approx(text + 1100, abs=30)
    assert estimate({"type": "image_url", "image_url": {"url": url, "detail": "low"}}) == pytest.approx(
        text + 85, abs=30
    )
    assert estimate({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}) == pytest.approx(
        text, abs=40
    )
    # As some writers have it, which escape what is plain.
    line = json.dumps({"custom_id": "a", "body": {"messages": [{"content": [{"image_url": url}]}]}})
    parsed = parse(line.replace("A" * 1000, r"\/\u002b" * 1000).encode())
    assert isinstance(parsed, ParsedLine)
    assert parsed.token_estimate < 1400


def test_the_bytes_of_a_clip_are_no_text() -> None:
    url = "data:audio/wav;base64," + "A" * 400_000
    plain = facts(model="m", file="file-1").token_estimate
    for name in ("file", "file_url"):
        assert facts(model="m", **{name: url}).token_estimate == pytest.approx(plain, abs=2)
    assert facts(model="m", prompt="x" * 400, file=url).token_estimate == pytest.approx(plain + 100, abs=6)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(alphabet='abody"\\{}[]:, \n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["body", "custom_id", "x"]), inner),
    max_leaves=6,
)


@given(
    members=st.lists(st.tuples(st.sampled_from(["x", "body", "method", "y"]), JSON), max_size=4),
    where=st.integers(0, 4),
)
def test_a_line_is_read_as_any_json_reader_reads_it(members: list[tuple[str, object]], where: int) -> None:
    body = {"model": "m", "note": "body"}
    members = [*members[:where], ("custom_id", "a"), ("body", body), *members[where:]]
    line = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}").encode()
    whole = json.loads(line)
    parsed = parse(line)
    assert isinstance(parsed, ParsedLine)
    fault = read_fault(parsed.shape)
    if not isinstance(whole["body"], dict):
        assert fault is Fault.INVALID_BODY
    elif fault is None:
        assert json.loads(line[parsed.body_start : parsed.body_start + parsed.body_length]) == whole["body"]
    else:
        assert fault is Fault.STREAM or not isinstance(whole["body"].get("model", ""), str | None)


SCALARS = st.one_of(
    st.sampled_from([b"1", b"1e999", b"NaN", b"null", b"-0", b"01", b"tru", b"9" * 5000, b"'x'", b"\0"]),
    st.sampled_from([b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"\\q"', b'"\t"', b'"x"', b'"\xff"', b'"\xc3\xa9"', b'"']),
)


@given(
    where=st.sampled_from([b"%b", b'{"custom_id":%b,"body":{}}', b'{"custom_id":"a","body":%b}', with_body(b'"x":%b')]),
    value=SCALARS,
    wrap=st.sampled_from([b"%b", b"[%b]", b"[%b,%b]", b'{"y":%b}', b'{"y":%b,"y":%b}', b"[%b"]),
    tail=st.sampled_from([b"", b" ", b"{", b"\0"]),
)
def test_whatever_a_line_is_there_is_one_sentence_for_it(where: bytes, value: bytes, wrap: bytes, tail: bytes) -> None:
    inner = wrap % ((value,) * wrap.count(b"%b"))
    line = where % inner + tail
    parsed = parse(line)
    problem = parsed if isinstance(parsed, BatchProblem) else find_problem(line)
    try:
        strict = json.loads(line, parse_int=float, parse_constant=lambda _: int("x"))
    except ValueError:
        strict = None
    # What is no JSON is a fault of the file, and what is JSON never is for its body.
    is_named = isinstance(strict, dict) and isinstance(strict.get("custom_id"), str)
    assert isinstance(parsed, ParsedLine) is (is_named and strict["custom_id"].isprintable())
    if problem is not None:
        msgspec.json.encode(problem)
        assert problem.message.endswith(".")
        assert problem.message.isprintable()
