import json
from typing import Any

import pytest

from backfill.tables import AnswerReader, AnswerSchema, read_result_line


def chat(content: object, **more: Any) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return json.dumps({"choices": [{"message": {"content": content}, **more}], "usage": usage}).encode()


def test_an_answer_of_text_is_one_column() -> None:
    reader = AnswerReader()
    assert [column.name for column in reader.columns] == ["answer", "_error"]
    assert reader.read(chat("hello")) == ["hello", None]


def test_usage_stands_beside_answers_and_errors() -> None:
    reader = AnswerReader(with_usage=True)
    names = [column.name for column in reader.columns]
    assert names == ["answer", "_error", "_prompt_tokens", "_completion_tokens", "_latency_ms"]
    assert reader.read(chat("hello"), 40) == ["hello", None, 5, 2, 40]
    assert reader.read(chat(None), 40) == [None, "the answer has no text [bad_answer]", 5, 2, 40]
    assert reader.fail("x") == [None, "x", None, None, None]


def test_an_answer_with_a_schema_is_its_columns_or_an_error() -> None:
    reader = AnswerReader(AnswerSchema.of_columns("label:enum(a,b), n:int"))
    assert reader.read(chat('{"label":"a","n":3}')) == ["a", 3, None]
    *values, error = reader.read(chat('{"label":"a"'))
    assert values == [None, None]
    assert error == 'the answer is not JSON: it ends inside an object (line 1, column 12): {"label":"a" [bad_answer]'
    assert "cut off at the limit of tokens" in reader.read(chat('{"label":"a"', finish_reason="length"))[2]


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', b'{"choices":7}'])
def test_an_answer_of_another_form_is_an_error(body: bytes) -> None:
    answer, error = AnswerReader().read(body)
    assert answer is None
    assert "[bad_answer]" in error


def test_a_transcript_is_text() -> None:
    reader = AnswerReader(endpoint="/v1/audio/transcriptions", with_usage=True)
    assert reader.read(b'{"text":"hello","usage":{"type":"duration","seconds":3}}') == ["hello", None, None, None, None]
    assert reader.read(b'{"choices":[]}')[1] == "the answer has no text [bad_answer]"


def test_embeddings_are_a_column_of_lists() -> None:
    reader = AnswerReader(endpoint="/v1/embeddings")
    assert reader.read(b'{"data":[{"embedding":[0.5,1]}]}') == [[0.5, 1], None]
    assert reader.read(b'{"data":[{"embedding":"AAAA"}]}')[0] is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"custom_id":"a","error":{"message":"boom","code":"server_error"}}', "boom [server_error]"),
        (
            '{"custom_id":"a","response":{"status_code":400,"body":{"error":{"message":"bad","code":null}}},"error":null}',
            "bad [http_400]",
        ),
        (
            '{"custom_id":"a","response":{"status_code":502,"body":"oops"},"error":null}',
            "no reason was given [http_502]",
        ),
        ('{"custom_id":"a","response":null,"error":{"message":"late","code":"batch_expired"}}', "late [batch_expired]"),
    ],
)
def test_errors_of_either_dialect_are_told_with_their_code(line: str, error: str) -> None:
    result = read_result_line(line.encode())
    assert result is not None
    assert AnswerReader().read_result(result) == [None, error]
