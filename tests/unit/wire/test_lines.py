"""One input line: what is kept of a good one, and what is said of a bad one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import ENDPOINTS, BatchProblem
from backfill.index import PREFIX_LEVELS
from backfill.wire import ParsedLine, find_shape_problem, parse_line

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = ENDPOINTS
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
        (b"{", "invalid_json_line", "not valid JSON"),
        (b"[]", "invalid_json_line", "must be a JSON object"),
        (b'{"custom_id":"a","body":{"x":"\xff"}}', "invalid_json_line", "UTF-8"),
        (b'{"custom_id":"a","body":{"x":' + b"[" * 100_000, "invalid_json_line", "nested too deeply"),
        (b'{"body":{}}', "missing_custom_id", "no custom_id"),
        (b'{"custom_id":5,"body":{}}', "invalid_custom_id", "must be a string"),
        (b'{"custom_id":"","body":{}}', "invalid_custom_id", "1 to 64"),
        (b'{"custom_id":"%b","body":{}}' % (b"x" * 65), "invalid_custom_id", "65"),
        (b'{"custom_id":"a"}', "missing_body", "no body"),
        (b'{"custom_id":"a","body":"text"}', "invalid_body", "JSON object"),
        (b'{"custom_id":"a","body" :null,"x\\"body":{"model":"m"}}', "invalid_body", "JSON object"),
        (b'{"custom_id":"a","body":{"model":5}}', "invalid_model", "body.model must be a string"),
        (b'{"custom_id":"a","body":{"model":"m","stream":true}}', "invalid_request", "body.stream"),
    ],
)
def test_a_bad_line_is_told_what_is_wrong(line: bytes, code: str, words: str) -> None:
    problem = parse(line)
    assert isinstance(problem, BatchProblem)
    assert problem.code == code
    assert words in problem.message


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
    assert {endpoint for endpoint in ENDPOINTS if find_shape_problem(parsed.members, endpoint) is None} == fits


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
    if not isinstance(whole["body"], dict) or not isinstance(whole["body"].get("model", ""), str | None):
        assert isinstance(parsed, BatchProblem)
        return
    if isinstance(parsed, BatchProblem):
        assert whole["body"].get("stream")
        return
    assert json.loads(line[parsed.body_start : parsed.body_start + parsed.body_length]) == whole["body"]
