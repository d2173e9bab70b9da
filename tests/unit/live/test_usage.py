"""What is known of a live request before and after, without looking at more of it than is needed."""

import pytest

from backfill.live.usage import LiveRequest, UsageReader, read_request

CHAT = "/v1/chat/completions"


def guess(body: bytes, endpoint: str = CHAT) -> LiveRequest:
    found = read_request(endpoint, body)
    assert isinstance(found, LiveRequest)
    return found


@pytest.mark.parametrize(
    ("members", "answer_tokens"),
    [
        (b"", 256),
        (b',"max_tokens":10', 10),
        (b',"max_completion_tokens":11,"max_tokens":10', 11),
        (b',"max_output_tokens":12', 12),
        (b',"max_tokens":10,"n":3', 30),
        (b',"max_tokens":"many","n":-1', 256),
        (b',"max_tokens":true', 256),
    ],
)
def test_the_guess(members: bytes, answer_tokens: int) -> None:
    body = b'{"model":"m"%s}' % members
    found = guess(body)
    assert (found.model, found.prompt_tokens) == ("m", len(body) // 4 + 1)
    assert found.tokens - found.prompt_tokens == answer_tokens
    assert guess(body, "/v1/embeddings").tokens == found.prompt_tokens


def test_a_picture_counts_by_what_it_is_and_not_by_its_bytes() -> None:
    text = guess(b'{"model":"m","messages":[{"content":[{"type":"text","text":"hi"}]}]}').prompt_tokens
    url = b"data:image/png;base64," + b"A" * 400_000
    for endpoint, member in ((CHAT, b"messages"), ("/v1/responses", b"input")):
        body = b'{"model":"m","%b":[{"content":[{"type":"input_image","image_url":"%b"}]}]}' % (member, url)
        assert guess(body, endpoint).prompt_tokens == pytest.approx(text + 1100, abs=30)


def test_only_true_asks_for_a_stream() -> None:
    assert guess(b'{"model":"m","stream":true}').is_stream
    for value in (b"false", b"null", b"1", b'"true"'):
        assert not guess(b'{"model":"m","stream":%s}' % value).is_stream


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}}', 11),
        (b'{"output":[],"usage":{"input_tokens":5,"output_tokens":6,"input_tokens_details":{"cached_tokens":3}}}', 11),
        (b'{"data":[],"usage": {"prompt_tokens": 5, "total_tokens": 5}}', 5),
        (b'{"text":"\\"usage\\":{\\"prompt_tokens\\":99}","usage":{"prompt_tokens":1,"completion_tokens":2}}', 3),
    ],
)
def test_usage_is_found_however_it_is_cut(answer: bytes, tokens: int, size: int) -> None:
    reader = UsageReader(guess(b'{"model":"m"}'))
    for start in range(0, len(answer), size):
        reader.note(answer[start : start + size])
    reader.note(b"")
    assert reader.tokens == tokens


def test_of_a_long_answer_only_the_end_is_kept() -> None:
    reader = UsageReader(guess(b'{"model":"m"}'))
    reader.note(b'{"data":[' + b"0.1," * 1_000_000)
    reader.note(b'0],"usage":{"prompt_tokens":7}}')
    reader.note(b"")
    assert reader.tokens == 7
    assert len(reader._tail) <= 8192


def test_a_stream_without_usage_counts_its_events() -> None:
    request = guess(b'{"model":"m","stream":true}')
    reader = UsageReader(request)
    for _ in range(5):
        reader.note(b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n')
    reader.note(b"")
    assert reader.tokens == request.prompt_tokens + 5


def test_an_answer_that_says_nothing_cost_what_was_guessed_and_one_cut_off_its_prompt() -> None:
    request = guess(b'{"model":"m"}')
    whole, cut = UsageReader(request), UsageReader(request)
    whole.note(b"{}")
    whole.note(b"")
    cut.note(b"{")
    assert (whole.tokens, cut.tokens) == (request.tokens, request.prompt_tokens)
