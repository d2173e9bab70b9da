"""What a file is, by its beginning."""

import pytest

from backfill.errors import InvalidInput
from backfill.tables import Form, holds_requests, recognise_form

REQUEST = b'{"custom_id": "a", "body": {"messages": []}}\n'


@pytest.mark.parametrize(
    ("beginning", "name", "form"),
    [
        (b"a,b\n1,2\n", "t.csv", Form.CSV),
        (b"a\tb\n1\t2\n", "t.tsv", Form.TSV),
        (b"a;b\n1;2\n", "table", Form.CSV),
        (b'{"a": 1}\n', "t.jsonl", Form.JSONL),
        (b'\xef\xbb\xbf{"a": 1}\n', "table", Form.JSONL),
        (b"PAR1\x15\x04", "t.csv", Form.PARQUET),
        (b"", "t.csv", Form.CSV),
    ],
)
def test_the_form_of_a_table_is_seen(beginning: bytes, name: str, form: Form) -> None:
    assert recognise_form(beginning, name) is form


@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        (b"PK\x03\x04rest", "save the sheet as CSV in UTF-8"),
        (b"\x1f\x8b\x08", "decompress it first"),
        (b"\xff\xfea\0", "save it as UTF-8"),
        (b"a,b\0\n", "neither text nor Parquet"),
    ],
)
def test_what_is_no_table_is_named(beginning: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        recognise_form(beginning, "t.csv")


@pytest.mark.parametrize(
    ("beginning", "name", "is_requests"),
    [
        (REQUEST, "a.jsonl", True),
        (REQUEST, "a.csv", False),
        (b'{"custom_id": "x"}\n', "a.jsonl", True),
        (b'{"id": 1, "body": "a text"}\n', "a.jsonl", False),
        (b'{"text": "good", "n": 1}\n', "a.jsonl", False),
        (b'{"text": "' + b"x" * 100, "a.jsonl", False),
        (REQUEST[:30], "a.jsonl", True),
        (b"not json\n", "a.jsonl", True),
        (b"{\n", "a.jsonl", True),
        (b"id,text\n1,a\n", "a.txt", False),
        (b"PAR1", "a", False),
        (b"a sentence\n", "a.txt", True),
    ],
)
def test_requests_are_told_from_rows(beginning: bytes, name: str, *, is_requests: bool) -> None:
    assert holds_requests(beginning, name) is is_requests
