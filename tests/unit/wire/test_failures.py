"""Messages that say the same of different lines are one reason."""

import pytest

from backfill.wire.failures import name_group, normalise, read_failed_line


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("This model takes 4096 tokens; the prompt has 5,120.", "This model takes 4096 tokens; the prompt has 90,001."),
        ('Invalid model specified: "a-1". Served: x.', 'Invalid model specified: "b". Served: x.'),
        ("request 7f1d0c62-3a54-4f0e-9d3b-0a9c3f6d2a11 lost", "request 0b1d0c62-3a54-4f0e-9d3b-0a9c3f6d2a12 lost"),
        ("https://a.example/x.png answers 404", "https://b.example/1/y.png answers 403"),
        ("No answer within 30 s.", "No answer within 1.5 s."),
        ("trace 5f2b9c7a10de1 failed", "trace 1a2b3c4d5e6f7 failed"),
    ],
)
def test_what_differs_from_line_to_line_is_left_out(first: str, second: str) -> None:
    assert normalise(first) == normalise(second)


def test_what_says_something_else_is_another_reason() -> None:
    messages = ["The engine's answer is no JSON.", "The engine can't be reached.", "deadbeef", "a 'b' c", "a 'b' d"]
    assert len({normalise(message) for message in messages}) == 5
    assert name_group("a", "b") != name_group("", "ab")
    assert normalise("don't be 'so' it's") == "don't be \"…\" it's"


def test_a_long_message_is_cut() -> None:
    assert len(normalise("word " * 10_000)) == 300


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'{"custom_id":"a","error":{"message":"m","code":"c"}}', "c", "m"),
        (b'{"id":"1","custom_id":"a","response":null,"error":{"code":"c","message":"m"}}', "c", "m"),
        (
            b'{"custom_id":"a","response":{"status_code":400,"body":{"error":{"message":"m","type":"t"}}},"error":null}',
            "t",
            "m",
        ),
        (b'{"custom_id":"a","response":{"status_code":422,"body":{"error":"m"}},"error":null}', "http_422", "m"),
    ],
)
def test_lines_of_both_dialects_are_read(line: bytes, code: str, message: str) -> None:
    assert read_failed_line(line) == ("a", code, message)
