"""Whatever lines are sent: each is a request or a problem with a reason, wherever the network cuts them."""

import random

import msgspec
import pytest

from backfill.batch import ENDPOINTS, Batch, State
from backfill.index import LineIndex, Survey
from backfill.intake import LineScanner
from backfill.wire import openai, together
from tests.support.mutation import mutate

GOOD = (
    b'{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}',
    (
        b'{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"system",'
        b'"content":[{"type":"text","text":"h\\u00e9"}]}],"max_tokens":5,"temperature":0,"seed":1,"stream":false}}'
    ),
    b'{"custom_id":"c","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":["one","two"]}}',
    b'{"custom_id":"d","method":"POST","url":"/v1/responses","body":{"model":"m","input":[{"role":"user","content":"x"}]}}',
    '{"body":{"prompt":["ü数🎉",[1,2,3]],"model":"m"},"custom_id":"ü\\ud83d\\ude00"}'.encode(),
    b'{"custom_id":"e","params":{"model":"m","max_tokens":5,"messages":[]}}',
)


def make_lines(chance: random.Random, count: int) -> bytes:
    """Lines of which most are damaged; every one that is not has an id of its own."""
    lines = []
    for number in range(count):
        line = chance.choice(GOOD).replace(b'"custom_id":"', b'"custom_id":"%d' % number, 1)
        lines.append(mutate(line, chance, GOOD)[:200_000] if chance.random() < 0.9 else line)
    return chance.choice((b"\n", b"\r\n")).join(lines)


def scan(content: bytes, chance: random.Random | None, lines_limit: int) -> tuple[LineIndex, Survey]:
    scanner = LineScanner(lines_limit=lines_limit, custom_id_length=64)
    start = 0
    while start < len(content):
        size = chance.choice((1, 100, 10_000, 1 << 19)) if chance else 1 << 19
        scanner.feed(content[start : start + size])
        start += size
    return scanner.finish()


def check(seed: int, count: int) -> None:
    chance = random.Random(seed)
    content = make_lines(chance, count)
    index, survey = scan(content, None, count * 2)
    cut_index, cut_survey = scan(content, chance, count * 2)
    assert (index.encode(), survey) == (cut_index.encode(), cut_survey), seed
    assert msgspec.json.decode(msgspec.json.encode(survey), type=Survey) == survey
    assert len(LineIndex.decode(index.encode())) == len(index)
    # What begins like another kind of file is read no further.
    assert len(index) > 0 or survey.problems[0].code == "invalid_file_format"
    assert survey.problem_count > 0
    check_problems(survey, content.count(b"\n") + 1)


def check_problems(survey: Survey, lines: int) -> None:
    """What is said of them can be shown in both dialects, with words and a line that is there."""
    batch = Batch(
        id="0",
        owner="0",
        endpoint=ENDPOINTS[0],
        input_file_id="f",
        input_size_bytes=1,
        state=State.FAILED,
        created_at_ms=1,
        deadline_at_ms=2,
        ended_at_ms=2,
        problems=survey.problems,
        problem_count=survey.problem_count,
    )
    for rendered in (openai.render_batch(batch, batch.counts), together.render_batch(batch, batch.counts)):
        msgspec.json.encode(rendered).decode("utf-8", "strict")
    for problem in survey.problems:
        assert 0 < len(problem.message) < 1000
        # What a file is as a whole stands on no line of it.
        assert (problem.line is None) == (problem.code == "invalid_file_format")
        assert problem.line is None or 1 <= problem.line <= lines


@pytest.mark.parametrize("seed", range(10))
def test_no_line_stops_the_reading(seed: int) -> None:
    check(seed, 200)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_no_line_of_a_hundred_thousand_stops_the_reading(seed: int) -> None:
    check(seed, 1000)
