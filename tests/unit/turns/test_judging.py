"""A file is judged for whatever endpoint a batch is made for, by what its lines are like."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import AUDIO_ENDPOINTS, ENDPOINTS, Dialect, State
from backfill.config import LimitsConfig, load_config
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import LineScanner
from backfill.turns import check_endpoint, judge
from backfill.turns.admission import PROBLEMS_SHOWN
from backfill.wire import ParsedLine, find_request_problem, find_target_problem, parse_line
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch

CHAT, OWN = "/v1/chat/completions", "/v1/anything"


def scan(*lines: dict[str, Any]) -> Survey:
    scanner = LineScanner(lines_limit=LimitsConfig().lines, custom_id_length=64)
    scanner.feed(encode(*lines))
    return scanner.finish()[1]


def encode(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"custom_id": str(number)} | line).encode() + b"\n" for number, line in enumerate(lines))


def line(url: str | None = None, method: str | None = None, **body: Any) -> dict[str, Any]:
    target = {"url": url, "method": method}
    return {name: value for name, value in target.items() if value is not None} | {"body": {"model": "m"} | body}


def find_lines(survey: Survey, endpoint: str, dialect: Dialect = Dialect.TOGETHER) -> list[int | None]:
    verdict = judge(survey, endpoint, None, dialect)
    return [problem.line for problem in verdict.reasons.problems]


def test_what_each_endpoint_needs() -> None:
    survey = scan(
        line(messages=[{"role": "user", "content": "a"}]),
        line(input="a"),
        line(file="https://example.com/a.wav"),
        line(file_url="https://example.com/a.wav"),
        line(query="a", documents=["b"]),
        line(text_1="a", text_2="b"),
        line(prompt="a"),
        line(prompt="a", file="https://example.com/a.wav"),
    )
    fits = {name: {1, 2, 3, 4, 5, 6, 7, 8} - set(find_lines(survey, name)) for name in (*ENDPOINTS, OWN)}
    assert fits == {
        CHAT: {1},
        "/v1/completions": {7, 8},
        "/v1/embeddings": {2},
        "/v1/responses": {2},
        "/v1/audio/transcriptions": {3, 4, 8},
        "/v1/audio/translations": {3, 4, 8},
        "/v1/moderations": {2},
        "/v1/rerank": {5},
        "/v1/score": {5, 6},
        "/v1/messages": {1},
        "/v1/images/generations": {7, 8},
        OWN: {1, 2, 3, 4, 5, 6, 7, 8},
    }


def test_openai_s_lines_say_where_they_go_and_together_s_need_not() -> None:
    lines = [
        line(OWN, "POST", x=1),
        line("/anything", "POST", x=1),
        line(CHAT, "POST", x=1),
        line(OWN, "GET", x=1),
        line(x=1),
    ]
    survey = scan(*lines)
    assert find_lines(survey, OWN, Dialect.OPENAI) == [3, 4, 5]
    assert find_lines(survey, OWN) == []


@pytest.mark.parametrize("endpoint", AUDIO_ENDPOINTS)
def test_together_s_method_for_files_goes_for_audio_alone(endpoint: str) -> None:
    clip = {"file": "https://example.com/a.wav"}
    assert find_lines(scan(line(None, "FILE", **clip), line(**clip)), endpoint) == []
    assert find_lines(scan(line(endpoint, "FILE", **clip)), endpoint, Dialect.OPENAI) == []
    talk = line(CHAT, "FILE", messages=[{"role": "user", "content": "a"}])
    assert find_lines(scan(talk), CHAT, Dialect.OPENAI) == [1]


BODIES = st.dictionaries(
    st.sampled_from(["messages", "prompt", "input", "file", "stream", "query", "documents"]), st.just(["x"]), max_size=3
)
LINES = st.builds(
    lambda url, method, model, body: line(url, method) | {"body": body | ({"model": "m"} if model else {})},
    st.sampled_from([None, CHAT, OWN, "/audio/transcriptions", "x" * 300]),
    st.sampled_from([None, "POST", "FILE", "é" * 300]),
    st.booleans(),
    BODIES,
)


@given(
    st.lists(LINES, min_size=1, max_size=40),
    st.sampled_from([CHAT, "/v1/audio/transcriptions", OWN]),
    st.sampled_from(Dialect),
    st.sampled_from([None, "m"]),
)
def test_a_file_is_judged_as_each_of_its_lines_is(
    lines: list[dict[str, Any]], endpoint: str, dialect: Dialect, model_id: str | None
) -> None:
    survey = msgspec.json.decode(msgspec.json.encode(scan(*lines)), type=Survey)
    of_file, of_requests = [], []
    for number, raw in enumerate(encode(*lines).splitlines(), start=1):
        parsed = parse_line(raw, 64)
        assert isinstance(parsed, ParsedLine)
        if dialect is Dialect.OPENAI and find_target_problem(parsed.target, endpoint):
            of_file.append(number)
        if find_request_problem(parsed.shape, endpoint, has_model=bool(parsed.model or model_id)):
            of_requests.append(number)
    verdict = judge(survey, endpoint, model_id, dialect)
    assert [problem.line for problem in verdict.of_file.problems] == of_file[:PROBLEMS_SHOWN]
    assert [problem.line for problem in verdict.of_requests.problems] == of_requests[:PROBLEMS_SHOWN]
    assert verdict.of_file.problem_count == len(of_file)
    assert verdict.of_requests.problem_count == len(of_requests)
    assert verdict.fails == bool(of_file or len(of_requests) == len(lines))


def test_a_survey_does_not_grow_with_the_endpoints_there_are() -> None:
    survey = scan(*(line(CHAT, "POST", messages=[{"role": "user", "content": "a"}]) for _ in range(1000)))
    assert len(msgspec.json.encode(survey)) < 500
    worst = scan(*(line(f"/{number}" + "x" * 5000, "POST", messages=["a"]) for number in range(1000)))
    assert len(msgspec.json.encode(worst)) < 60_000


def test_which_endpoints_there_are() -> None:
    assert check_endpoint("/audio/transcriptions") == "/v1/audio/transcriptions"
    for path in ("/v1/anything", "/anything"):
        assert check_endpoint(path, {OWN}) == OWN
        with pytest.raises(InvalidInput, match="must be one of /v1/audio"):
            check_endpoint(path)
    # One without a version is another one.
    assert check_endpoint("/rerank", {"/rerank"}) == "/rerank"
    assert check_endpoint("/rerank") == "/v1/rerank"


def test_what_engines_are_listed_for() -> None:
    engines = {"a": {"url": "http://h", "endpoints": [OWN, CHAT]}, "b": {"kind": "vllm", "model": "m"}}
    assert load_config(environment={}, overrides={"engines": engines}).listed_endpoints == {OWN, CHAT}


async def test_a_listed_endpoint_works_from_end_to_end(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if body["n"] == 2:
            return web.json_response({"error": {"message": "not two"}}, status=400)
        return web.json_response({"twice": 2 * body["n"], "usage": {"prompt_tokens": body["n"]}})

    async def list_models(_: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_post(OWN, answer)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with open_house(tmp_path, url, engines__null__endpoints=[OWN]) as rooms:
            content = encode(*(line(OWN, "POST", n=number) for number in (1, 2, 3)))
            batch = await create_batch(rooms, content, endpoint="/anything", dialect=Dialect.OPENAI)
            batch = await wait_for_batch(rooms, batch.id)
            assert (batch.state, batch.endpoint) == (State.COMPLETED, OWN)
            files = (batch.output_file_id, batch.error_file_id)
            answered, failed = ([json.loads(one) for one in read_results(rooms, each)] for each in files)
            assert [one["response"]["body"]["twice"] for one in answered] == [2, 6]
            assert [one["custom_id"] for one in failed] == ["1"]
            assert batch.counts.usage.prompt_tokens == 4
            # What nobody serves is refused by name, line by line, as ever.
            other = await create_batch(rooms, encode(line(messages=["a"])))
            other = await wait_for_batch(rooms, other.id)
            (refused,) = read_results(rooms, other.error_file_id)
            assert b"This server serves no model on this endpoint" in refused or b"Invalid model" in refused
    finally:
        await runner.cleanup()


def scan_bytes(data: bytes) -> Survey:
    scanner = LineScanner(lines_limit=5, custom_id_length=64)
    scanner.feed(data)
    return scanner.finish()[1]


def test_invalid_lines_fail_the_file_or_only_themselves() -> None:
    survey = scan_bytes(b"{\n" + encode(line(messages=["a"]), line(prompt="a")))
    failing = judge(survey, CHAT, None)
    assert (failing.fails, failing.of_file.problem_count, failing.of_requests.problem_count) == (True, 1, 1)
    skipping = judge(survey, CHAT, None, skips_invalid_lines=True)
    assert (skipping.fails, skipping.of_file.problem_count) == (False, 0)
    assert [problem.line for problem in skipping.of_requests.problems] == [1, 3]
    assert skipping.reasons == failing.reasons


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"a,b\nc,d\n", "invalid_file_format"),
        (b"\x1f\x8b\x08", "invalid_file_format"),
        (encode(*[line(messages=["a"])] * 6), "too_many_requests"),
    ],
)
def test_what_makes_the_whole_file_unusable_fails_it_all_the_same(data: bytes, code: str) -> None:
    verdict = judge(scan_bytes(data), CHAT, None, skips_invalid_lines=True)
    assert verdict.fails
    assert [problem.code for problem in verdict.of_file.problems] == [code]


def test_if_no_line_is_left_the_batch_fails() -> None:
    verdict = judge(scan_bytes(b"{\n{}\n" + encode(line(prompt="a"))), CHAT, None, skips_invalid_lines=True)
    assert (verdict.fails, verdict.of_file.problem_count, verdict.of_requests.problem_count) == (True, 0, 3)


def test_lines_for_elsewhere_are_counted_once_where_they_fail_alone() -> None:
    lines = [line(CHAT, "POST", messages=["a"]), line("/v1/embeddings", "POST", input="a"), line(messages=["a"])]
    verdict = judge(scan(*lines), CHAT, None, Dialect.OPENAI, skips_invalid_lines=True)
    assert (verdict.fails, verdict.of_file.problem_count, verdict.of_requests.problem_count) == (False, 0, 2)
    assert [(each.line, each.code) for each in verdict.reasons.problems] == [
        (2, "url_mismatch"),
        (3, "invalid_method"),
    ]


def test_lines_of_very_many_urls_do_not_fail_the_one_that_is_right() -> None:
    odd = [line(f"/v1/{number}", "POST", messages=["a"]) for number in range(300)]
    survey = scan(*odd, line(CHAT, "POST", messages=["a"]))
    assert not judge(survey, CHAT, None, Dialect.OPENAI, skips_invalid_lines=True).fails
