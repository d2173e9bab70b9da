"""What real engines are asked: new to every cache where it should be, alike where it should be, and as long as told."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.batch_run import count_completion_tokens, find_wrong_lengths
from bench.workloads import Request, make_chats, make_classifications, read_requests, write_requests

LENGTHS = (16, 32, 96)


def first_words(body: dict[str, Any], count: int = 4) -> str:
    return " ".join(body["messages"][0]["content"].split()[:count])


def test_chats_share_nothing_and_draw_their_lengths() -> None:
    bodies = make_chats("m", 60, LENGTHS, "salt")
    assert len({first_words(body) for body in bodies}) == 60
    assert {body["max_tokens"] for body in bodies} == set(LENGTHS)
    assert all(body["ignore_eos"] and body["temperature"] == 0 for body in bodies)


@pytest.mark.parametrize("prefixes", [1, 4, 8])
def test_classifications_share_their_beginnings_and_nothing_else(prefixes: int) -> None:
    bodies = make_classifications("m", 64, prefixes, "salt")
    systems = [body["messages"][0]["content"] for body in bodies]
    assert len(set(systems)) == prefixes
    assert len({system[:20] for system in systems}) == prefixes
    assert all(systems.count(system) == 64 // prefixes for system in set(systems))
    assert len({msgspec.json.encode(body) for body in bodies}) == 64
    assert {body["max_tokens"] for body in bodies} == {4}


def test_prefixes_do_not_come_in_a_pattern() -> None:
    systems = [body["messages"][0]["content"] for body in make_classifications("m", 64, 4, "salt")]
    names = sorted(set(systems), key=systems.index)
    assert systems != [names[number % 4] for number in range(64)]
    assert systems != sorted(systems, key=names.index)


@pytest.mark.parametrize(
    "make", [lambda salt: make_chats("m", 8, (4,), salt), lambda salt: make_classifications("m", 8, 2, salt)]
)
def test_a_salt_gives_its_own_requests_every_time(make: Any) -> None:
    assert make("one") == make("one")
    assert not {first_words(body) for body in make("one")} & {first_words(body) for body in make("two")}


def test_requests_are_read_back(tmp_path: Path) -> None:
    bodies = make_chats("m", 5, LENGTHS, "salt")
    requests = read_requests(write_requests(tmp_path / "input.jsonl", bodies))
    assert [msgspec.json.decode(one.body) for one in requests] == bodies
    assert [one.max_tokens for one in requests] == [body["max_tokens"] for body in bodies]
    assert [one.custom_id for one in requests] == [f"request-{line:06d}" for line in range(5)]


def test_lengths_are_read_from_the_output_and_compared() -> None:
    output = b'{"custom_id":"a","response":{"status_code":200,"body":{"usage":{"completion_tokens":16}}}}\n'
    output += b'{"custom_id":"b","response":{"status_code":200,"body":{"usage":{"completion_tokens":9}}}}\n'
    counts = count_completion_tokens(output)
    assert counts == {"a": 16, "b": 9}
    requests = [Request("a", msgspec.Raw(b"{}"), 16), Request("b", msgspec.Raw(b"{}"), 9)]
    assert find_wrong_lengths(requests, counts) == []
    requests[1] = Request("b", msgspec.Raw(b"{}"), 10)
    assert find_wrong_lengths(requests, counts) == ["1 answers have not the length asked for, such as b"]
