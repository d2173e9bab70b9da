"""The parts of the speech host that need no model: fields, doubts, the line in which chunks wait, and answers."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES
from faster_whisper.transcribe import Segment as HeardSegment
from faster_whisper.vad import SpeechTimestampsMap

from backfill.engines.host_refusal import Refusal
from backfill.engines.speech.host.chunks import Chunk
from backfill.engines.speech.host.doubts import find_missing, is_doubtful, is_silent
from backfill.engines.speech.host.model import Model, _Batched
from backfill.engines.speech.host.requests import LANGUAGES, Order, parse_request
from backfill.engines.speech.host.segments import Segment, Spoken
from backfill.engines.speech.host.workers import Workers

DEADLINE_S = 20.0
ORDER = Order("transcribe")


def make_segment(text: str = " Words.", **members: Any) -> Segment:
    facts = {"start_s": 0.0, "end_s": 1.0, "tokens": (1, 2), "temperature": 0.0, "avg_logprob": -0.2}
    return Segment(**{"text": text, "compression_ratio": 1.0, "no_speech_prob": 0.0, **facts, **members})


def make_chunk(length_s: float = 1.0) -> Chunk:
    samples = np.zeros(int(length_s * 16_000), np.float32)
    return Chunk(samples, 0.0, SpeechTimestampsMap([{"start": 0, "end": len(samples)}], 16_000))


def test_the_languages_are_those_of_the_library() -> None:
    assert set(_LANGUAGE_CODES) == LANGUAGES


def test_fields_become_an_order() -> None:
    fields = {
        "model": ["m"],
        "language": ["EN-us"],
        "prompt": [" Names. "],
        "response_format": ["verbose_json"],
        "temperature": ["0.4"],
        "timestamp_granularities[]": ["word", "segment"],
    }
    wanted = parse_request("transcribe", fields, is_multilingual=True)
    assert wanted.order == Order("transcribe", "Names.", "", 0.4, timestamps=True, words=True)
    assert (wanted.language, wanted.form, wanted.granularities) == (
        "en",
        "verbose_json",
        frozenset({"word", "segment"}),
    )


def test_empty_fields_are_none() -> None:
    wanted = parse_request("transcribe", {"language": [""], "prompt": [""], "temperature": [""]}, is_multilingual=True)
    assert (wanted.order, wanted.language, wanted.form) == (ORDER, None, "json")


def test_a_model_for_english_hears_english() -> None:
    assert parse_request("transcribe", {}, is_multilingual=False).language == "en"
    with pytest.raises(Refusal, match="cannot translate"):
        parse_request("translate", {}, is_multilingual=False)


def test_doubts() -> None:
    assert not is_doubtful(make_segment())
    assert is_doubtful(make_segment(compression_ratio=2.5))
    assert is_doubtful(make_segment(avg_logprob=-1.1))
    assert is_silent(make_segment(avg_logprob=-1.1, no_speech_prob=0.7))
    assert not is_silent(make_segment(no_speech_prob=0.7))


@pytest.mark.parametrize(
    ("tokens", "end_s", "has_times", "missing"),
    [
        (60, 24.9, True, None),
        (60, 19.0, True, 19.0),
        (60, 24.9, False, None),
        (4, 24.9, False, 0.0),
    ],
)
def test_what_is_missing(tokens: int, end_s: float, has_times: bool, missing: float | None) -> None:
    segments = [make_segment(tokens=tuple(range(tokens)))]
    assert find_missing(segments, [end_s], 25.0, has_times=has_times) == missing


def test_a_short_chunk_may_have_few_words() -> None:
    assert find_missing([], [], 3.0, has_times=True) is None
    assert find_missing([make_segment()], [3.0], 4.0, has_times=False) is None


class Gate:
    """A model that notes what it is given together, and waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[str | None]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def hear(self, chunks: Sequence[Chunk], order: Order, language: str | None) -> list[Spoken]:
        self.batches.append([language] * len(chunks))
        self.entered.release()
        assert self.open.acquire(timeout=DEADLINE_S)
        if language == "xx":
            message = "broken"
            raise RuntimeError(message)
        return [Spoken(language or "en", ()) for _ in chunks]


def test_chunks_that_wait_are_heard_together_if_they_are_alike() -> None:
    gate = Gate()
    workers = Workers(gate.hear, count=1, batch_size=3)
    first = workers.submit(make_chunk(), ORDER, "en")
    assert gate.entered.acquire(timeout=DEADLINE_S)
    languages = ["en", "de", "en", "en", "en", "de"]
    futures = [workers.submit(make_chunk(), ORDER, language) for language in languages]
    for _ in range(10):
        gate.open.release()
    assert first.result(DEADLINE_S).language == "en"
    assert [future.result(DEADLINE_S).language for future in futures] == languages
    assert gate.batches == [["en"], ["en", "en", "en"], ["de", "de"], ["en"]]


def test_idle_workers_share_what_waits() -> None:
    gate = Gate()
    workers = Workers(gate.hear, count=2, batch_size=8)
    futures = [workers.submit(make_chunk(), ORDER, "en") for _ in range(2)]
    for _ in range(2):
        assert gate.entered.acquire(timeout=DEADLINE_S)
    assert [len(batch) for batch in gate.batches] == [1, 1]
    for _ in range(2):
        gate.open.release()
    for future in futures:
        future.result(DEADLINE_S)


def test_a_failure_is_told_to_those_it_concerns_and_to_no_others() -> None:
    gate = Gate()
    workers = Workers(gate.hear, count=1, batch_size=4)
    broken = workers.submit(make_chunk(), ORDER, "xx")
    well = workers.submit(make_chunk(), ORDER, "en")
    for _ in range(2):
        gate.open.release()
    with pytest.raises(RuntimeError, match="broken"):
        broken.result(DEADLINE_S)
    assert well.result(DEADLINE_S).language == "en"


def test_what_is_given_up_before_its_turn_is_never_heard() -> None:
    gate = Gate()
    workers = Workers(gate.hear, count=1, batch_size=1)
    first = workers.submit(make_chunk(), ORDER, "en")
    assert gate.entered.acquire(timeout=DEADLINE_S)
    given_up, last = workers.submit(make_chunk(), ORDER, "de"), workers.submit(make_chunk(), ORDER, "fr")
    assert given_up.cancel()
    for _ in range(3):
        gate.open.release()
    first.result(DEADLINE_S)
    last.result(DEADLINE_S)
    assert gate.batches == [["en"], ["fr"]]


class SlowWhisper:
    """The model where it is asked to hear something again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.lengths_s: list[float] = []

    def transcribe(self, samples: Any, **_options: Any) -> tuple[list[HeardSegment], None]:
        self.lengths_s.append(len(samples) / 16_000)
        facts = {"id": 1, "seek": 0, "tokens": [1], "avg_logprob": -0.1, "compression_ratio": 1.0, "words": None}
        heard = HeardSegment(start=1.0, end=4.0, text=self._text, no_speech_prob=0.0, temperature=0.2, **facts)
        return [heard], None


def complete(whisper: SlowWhisper, segments: list[tuple[Segment, float]], *, timestamps: bool) -> tuple[Segment, ...]:
    model = Model.__new__(Model)
    model._whisper, model._beam_size = whisper, 1
    return model._complete(make_chunk(25.0), segments, Order("transcribe", timestamps=timestamps), "en")


def test_a_stretch_that_was_left_out_is_heard_again_from_there_on() -> None:
    whisper = SlowWhisper(" The rest.")
    first, again = complete(whisper, [(make_segment(" The beginning."), 10.0)], timestamps=True)
    assert (first.text, again.text) == (" The beginning.", " The rest.")
    assert (again.start_s, again.end_s) == (11.0, 14.0)
    assert whisper.lengths_s == [15.0]


@pytest.mark.parametrize("segments", [[], [(make_segment(" Hm."), 25.0)]])
def test_a_chunk_with_hardly_a_word_is_heard_again_as_a_whole(segments: list[tuple[Segment, float]]) -> None:
    whisper = SlowWhisper(" What was really said.")
    assert [one.text for one in complete(whisper, segments, timestamps=False)] == [" What was really said."]
    assert whisper.lengths_s == [25.0]


def test_what_repeats_itself_is_heard_again() -> None:
    whisper = SlowWhisper(" Once.")
    looping = make_segment(" Twice, twice, twice.", compression_ratio=3.0, tokens=tuple(range(100)))
    assert [one.text for one in complete(whisper, [(looping, 25.0)], timestamps=False)] == [" Once."]


def test_what_is_whole_or_silent_is_not_heard_again() -> None:
    whisper = SlowWhisper("")
    whole = make_segment(tokens=tuple(range(60)))
    assert complete(whisper, [(whole, 24.9)], timestamps=True) == (whole,)
    assert complete(whisper, [(make_segment(avg_logprob=-2.0, no_speech_prob=0.9), 25.0)], timestamps=True) == ()
    assert whisper.lengths_s == []


def test_no_text_behind_the_last_timestamp_is_dropped() -> None:
    batched = _Batched(SimpleNamespace(time_precision=0.02, input_stride=2))
    tokenizer = SimpleNamespace(timestamp_begin=1000, eot=900)
    facts = {"time_offset": 0.0, "segment_size": 2000, "segment_duration": 20.0, "seek": 0}
    tokens = [1000, 1, 2, 1100, 1100, 3, 4]
    segments, _, _ = batched._split_segments_by_timestamps(tokenizer, tokens, **facts)
    assert [(one["start"], one["end"], one["tokens"]) for one in segments] == [
        (0.0, 2.0, [1000, 1, 2, 1100]),
        (2.0, 20.0, [1100, 3, 4]),
    ]
    whole, _, _ = batched._split_segments_by_timestamps(tokenizer, [1000, 1, 2, 1100], **facts)
    assert [one["tokens"] for one in whole] == [[1000, 1, 2, 1100]]
