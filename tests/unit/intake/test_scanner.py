"""One pass over a file: what is indexed, what is found wrong, and that the pieces it came in do not matter."""

import gzip
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.index import OTHER_TARGET, LineIndex, Survey
from backfill.intake import LineScanner
from backfill.turns import judge
from backfill.wire import Fault, read_fault
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


GOOD = request_line(1) + b"\n" + request_line(2) + b"\n"
ARRAY = b"[" + request_line(1) + b", " + request_line(2) + b"]"
PRETTY = json.dumps(json.loads(request_line(1)), indent=2).encode() + b"\n"
FOREIGN = [
    (gzip.compress(GOOD), "a gzip file; decompress it first"),
    (b"\x28\xb5\x2f\xfd\x24\n\n", "a Zstandard file; decompress it first"),
    (b"PK\x03\x04\x14\0\n", "a ZIP file"),
    (b"PAR1\x15\n\0PAR1", "a Parquet file"),
    (GOOD.decode().encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    (GOOD.decode().encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
    (GOOD.decode().encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
    (GOOD.decode().encode("utf-32"), "UTF-32 text; save it as UTF-8"),
    (ARRAY, "a JSON array; put each request on a line of its own"),
    (ARRAY.replace(b", {", b",\n {"), "a JSON array; put each request on a line of its own"),
    (b"\xef\xbb\xbf\r\n[\r\n" + GOOD + b"]", "a JSON array; put each request on a line of its own"),
    (PRETTY * 3, "pretty-printed JSON; each request must stand on one line"),
    (b'{"custom_id": "a",\n "body": {}}\n', "pretty-printed JSON; each request must stand on one line"),
    (b'custom_id,prompt\n1,"hello"\n', 'CSV or other text (it begins with "custom_id,prompt")'),
    (b'"custom_id";"prompt"\n1;"hello"\n', "CSV or other text"),
    (b"<html>\n<body>\n", "XML or HTML"),
]


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize(("data", "words"), FOREIGN)
def test_a_file_that_is_no_json_lines_is_told_what_it_is_once(data: bytes, words: str, step: int) -> None:
    index, survey = scan(*(data[start : start + step] for start in range(0, len(data), step)))
    (problem,) = survey.problems
    assert (problem.code, problem.line, survey.problem_count) == ("invalid_file_format", None, 1)
    assert problem.message.startswith(f"The file is {words}")
    assert (len(index), survey.lines) == (0, 0)


@pytest.mark.parametrize(
    "first", [b"{", b'{"custom_id": "a",', b"[1, 2]", b"[]", b"5", b"null", b"hello", b"\0\0\0\0", b"\xff", b"{}"]
)
def test_one_bad_first_line_is_not_taken_for_a_bad_file(first: bytes) -> None:
    index, survey = scan(first + b"\n" + GOOD)
    assert [problem.line for problem in survey.problems] == [1]
    assert (len(index), survey.lines) == (3, 3)


def test_words_before_the_first_request_are_a_bad_line_and_no_csv() -> None:
    _, survey = scan(b"requests, as of today\n" + GOOD)
    assert [(problem.line, problem.code) for problem in survey.problems] == [(1, "invalid_json_line")]
    _, survey = scan(b"requests, as of today")
    assert [problem.code for problem in survey.problems] == ["invalid_file_format"]


def test_lines_that_are_no_requests_have_a_row_of_their_own() -> None:
    lines = [b"{", request_line(1), b'{"body":{}}', b"", request_line(1), request_line(2, custom_id="x" * 65), b"\xff"]
    data = b"\n".join(lines)
    index, survey = scan(data)
    assert (len(index), survey.lines, survey.problem_count) == (6, 6, 5)
    faults = [read_fault(shape) for shape in index.shapes]
    none, twice = Fault.NO_REQUEST, Fault.REPEATED
    assert faults == [none, None, none, twice, none, none]
    ids = [index.custom_id_json(line) for line in range(len(index))]
    assert ids == [b"null", b'"request-1"', b"null", b'"request-1"', b"null", b"null"]
    spans = zip(index.body_offsets, index.body_lengths, strict=True)
    found = [data[start : start + length] for start, length in spans]
    assert [found[0], found[2], found[4], found[5]] == [lines[0], lines[2], lines[5], lines[6]]
    assert survey.needs["m"].lines == 2
    assert sum(kind.count for kind in survey.kinds) == 1


def test_what_lines_say_of_where_they_go_is_kept_within_bounds() -> None:
    urls = [f"/v1/odd/{number}" for number in range(500)]
    lines = [json.loads(request_line(number)) | {"method": "POST", "url": url} for number, url in enumerate(urls)]
    lines.append(json.loads(request_line(500)) | {"method": "POST", "url": "/v1/chat/completions"})
    lines.append(json.loads(request_line(501)) | {"url": "x" * 1000})
    index, _ = scan(b"\n".join(json.dumps(line).encode() for line in lines))
    assert len(index.target_names) < 256
    told = [index.target_names[number] for number in index.targets]
    assert told[:200] == [("POST", url) for url in urls[:200]]
    assert told[200:500] == [OTHER_TARGET] * 300
    assert told[500] == ("POST", "/v1/chat/completions")
    assert told[501] == OTHER_TARGET
    few, _ = scan(json.dumps(lines[501]).encode())
    assert few.target_names[few.targets[0]] == (None, "x" * 200)


def test_what_stands_further_down_does_not_change_what_the_file_is() -> None:
    _, survey = scan(GOOD + b"a,b\n" + gzip.compress(b"x") + b"\n" + PRETTY)
    assert survey.problem_count > 5
    assert "invalid_file_format" not in {problem.code for problem in survey.problems}


def test_requests_that_cannot_be_sent_are_no_fault_of_the_file() -> None:
    lines = [
        request_line(0),
        request_line(1, stream=True),
        b'{"custom_id":"2","params":{}}',
        b'{"custom_id":"3","body":{"model":"m","messages":["\\ud83d"]}}',
        request_line(4, model=None),
        b'{"custom_id":"5","body":{"model":"m","input":"x"}}',
        b'{"custom_id":"6","body":{"input":"x"}}',
    ]
    index, survey = scan(b"\n".join(lines))
    assert (len(index), survey.lines, survey.problem_count) == (7, 7, 0)
    chat, embeddings = (judge(survey, name, "m").of_requests for name in (CHAT, "/v1/embeddings"))
    assert [problem.line for problem in chat.problems] == [2, 3, 4, 6, 7]
    assert "body.messages[0]: \\ud83d at byte 51 of the line" in chat.problems[2].message
    assert [problem.line for problem in embeddings.problems] == [1, 2, 3, 4, 5]
    # Of each line the first reason counts, so that it is known how many are left.
    assert [judge(survey, name, None).of_requests.problem_count for name in (CHAT, "/v1/embeddings")] == [6, 6]
    assert (chat.problem_count, survey.lines_without_model) == (5, 2)
    assert [read_fault(shape) for shape in index.shapes[:4]] == [None, Fault.STREAM, Fault.PARAMS, Fault.UNREADABLE]
    data = b"\n".join(lines)
    offset, length = index.body_offsets[3], index.body_lengths[3]
    assert data[offset : offset + length] == lines[3]


def test_what_endpoint_a_line_fits_and_which_models_there_are() -> None:
    lines = [request_line(1), request_line(2, model=None), b'{"custom_id":"e","body":{"model":"e","input":"x"}}']
    index, survey = scan(b"\n".join(lines))
    chat = judge(survey, CHAT, "m").of_requests
    assert (chat.problem_count, chat.problems[0].line) == (1, 3)
    assert judge(survey, "/v1/embeddings", "m").of_requests.problem_count == 2
    assert survey.models == ("m", "e")
    assert (survey.lines_without_model, judge(survey, CHAT, None).of_requests.problems[0].line) == (1, 2)
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
