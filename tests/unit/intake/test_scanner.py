"""One pass over a file: what is indexed, what is found wrong, and that the pieces it came in do not matter."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.index import LineIndex, Survey
from backfill.intake import LineScanner
from tests.support.lines import request_line

CHAT = "/v1/chat/completions"


def scan(*pieces: bytes, lines_limit: int = 50_000) -> tuple[LineIndex, Survey]:
    scanner = LineScanner(lines_limit=lines_limit, custom_id_length=64)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def bodies(index: LineIndex, data: bytes) -> list[object]:
    ends = zip(index.body_offsets, index.body_lengths, strict=True)
    return [json.loads(data[offset : offset + length]) for offset, length in ends]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (request_line(1) + b"\n" + request_line(2) + b"\n", 2),
        (request_line(1) + b"\n" + request_line(2), 2),
        (request_line(1) + b"\r\n\r\n \n" + request_line(2) + b"\r\n", 2),
        (b"\xef\xbb\xbf" + request_line(1) + b"\n", 1),
    ],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_do_no_harm(data: bytes, count: int) -> None:
    index, survey = scan(data)
    assert (len(index), survey.lines, survey.problem_count) == (count, count, 0)
    assert [body["model"] for body in bodies(index, data)] == ["m"] * count  # type: ignore[index]
    assert json.loads(index.custom_id_json(0)) == "request-1"


def test_problems_name_the_line_of_the_file_blank_lines_counted() -> None:
    _, survey = scan(b"\n" + request_line(1) + b"\n\n{\n" + request_line(1))
    assert [(problem.line, problem.code) for problem in survey.problems] == [
        (4, "invalid_json_line"),
        (5, "duplicate_custom_id"),
    ]
    assert "line 2" in survey.problems[1].message


def test_twenty_problems_are_kept_and_all_are_counted() -> None:
    _, survey = scan(b"{\n" * 5000)
    assert (len(survey.problems), survey.problem_count) == (20, 5000)


@pytest.mark.parametrize("data", [b"", b"\n \n\r\n"])
def test_a_file_without_requests_is_told_so(data: bytes) -> None:
    _, survey = scan(data)
    assert [problem.code for problem in survey.problems] == ["empty_file"]


def test_lines_past_the_limit_are_counted_but_not_kept() -> None:
    data = b"".join(request_line(number) + b"\n" for number in range(30))
    index, survey = scan(data, lines_limit=10)
    assert (len(index), survey.lines) == (10, 30)
    assert survey.problems[0].code == "too_many_requests"
    assert "30" in survey.problems[0].message


def test_what_endpoint_a_line_fits_and_which_models_there_are() -> None:
    lines = [request_line(1), request_line(2, model=None), b'{"custom_id":"e","body":{"model":"e","input":"x"}}']
    index, survey = scan(b"\n".join(lines))
    assert survey.endpoints[CHAT].problem_count == 1
    assert survey.endpoints[CHAT].problems[0].line == 3
    assert survey.endpoints["/v1/embeddings"].problem_count == 2
    assert survey.models == ("m", "e")
    assert (survey.lines_without_model, survey.first_without_model) == (1, 2)
    assert [index.model_names[model] for model in index.models] == ["m", None, "e"]


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)


@given(
    contents=st.lists(st.tuples(TEXTS, st.sampled_from(["\n", "\r\n", "\n\n"])), min_size=1, max_size=12),
    cuts=st.lists(st.integers(min_value=0, max_value=4000), max_size=8),
)
def test_the_pieces_a_file_comes_in_do_not_matter(contents: list[tuple[str, str]], cuts: list[int]) -> None:
    data = b"".join(
        request_line(number, custom_id=f"{number}-{text[:50]}", note=text) + end.encode()
        for number, (text, end) in enumerate(contents)
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    index, survey = scan(*pieces)
    whole_index, whole_survey = scan(data)
    assert index.encode() == whole_index.encode()
    assert survey == whole_survey
    assert [body["note"] for body in bodies(index, data)] == [text for text, _ in contents]  # type: ignore[index]
