"""Whisper by faster-whisper: chunks of speech in, what was said in each out.

Chunks are encoded one by one, since a batch of them needs much memory there and is no faster on a core, and decoded
together, which is. What comes out so is looked at (`doubts`): a chunk whose text cannot be right, or whose end is
missing, is decoded again in the slow way that Whisper's authors describe, at rising temperatures and by its own
timestamps.
"""

from collections.abc import Sequence
from typing import Any, Final

import ctranslate2
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens, pad_or_trim

from backfill.engines.speech.host.audio import RATE_HZ, Samples
from backfill.engines.speech.host.chunks import Chunk
from backfill.engines.speech.host.doubts import find_missing, is_doubtful, is_silent
from backfill.engines.speech.host.requests import Order
from backfill.engines.speech.host.segments import Segment, Spoken, Word
from backfill.engines.speech.messages import HostSettings

__all__ = ["Model"]

_TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# The library's own defaults: signs that belong to the word behind them, or before them.
_BEFORE_WORDS: Final = "\"'“¿([{-"
_AFTER_WORDS: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001


class Model:
    """Loaded once; any number of threads may call it, and as many as there are workers compute."""

    def __init__(self, settings: HostSettings) -> None:
        """Load it; takes seconds.

        Raises:
            RuntimeError: CTranslate2 cannot read the folder.
            ValueError: it does not know the compute type.

        """
        self._whisper = WhisperModel(
            settings.model,
            device="cpu",
            compute_type=settings.compute_type,
            cpu_threads=1,
            num_workers=settings.workers,
            local_files_only=True,
        )
        self._beam_size = settings.beam_size
        self.is_multilingual: bool = self._whisper.model.is_multilingual

    def hear(self, chunks: Sequence[Chunk], order: Order, language: str | None) -> list[Spoken]:
        """What is said in each chunk; without a language each is heard in the one that it seems to be in."""
        encoded = [self._encode(chunk.samples) for chunk in chunks]
        languages = [language or self._detect(one) for one in encoded]
        found: list[Spoken] = [Spoken(one, ()) for one in languages]
        for common in dict.fromkeys(languages):
            places = [i for i, one in enumerate(languages) if one == common]
            spoken = self._decode([chunks[i] for i in places], [encoded[i] for i in places], order, common)
            for place, segments in zip(places, spoken, strict=True):
                found[place] = Spoken(common, segments)
        return found

    def _encode(self, samples: Samples) -> Any:
        features = pad_or_trim(self._whisper.feature_extractor(samples)[..., :-1])
        return np.array(self._whisper.encode(features))

    def _detect(self, encoded: Any) -> str:
        if not self.is_multilingual:
            return "en"
        token, _probability = self._whisper.model.detect_language(_as_storage(encoded))[0][0]
        return str(token).strip("<|>")

    def _decode(
        self, chunks: Sequence[Chunk], encoded: Sequence[Any], order: Order, language: str
    ) -> list[tuple[Segment, ...]]:
        if order.temperature:
            # Batches are not sampled from.
            return [self._decode_slowly(chunk, chunk.samples, 0.0, order, language) for chunk in chunks]
        pipeline = BatchedInferencePipeline(_Batched(self._whisper))
        tokenizer = Tokenizer(self._whisper.hf_tokenizer, self.is_multilingual, task=order.task, language=language)
        metadata = [{"offset": 0.0, "duration": chunk.length_s} for chunk in chunks]
        made = pipeline.forward(_Encoded(encoded), tokenizer, metadata, self._make_options(order, tokenizer))
        return [
            self._complete(chunk, [_read(one, chunk) for one in segments], order, language)
            for chunk, segments in zip(chunks, made, strict=True)
        ]

    def _complete(
        self, chunk: Chunk, segments: list[tuple[Segment, float]], order: Order, language: str
    ) -> tuple[Segment, ...]:
        """The segments, each with its end within the chunk; decoded again as far as they cannot be right."""
        found = [segment for segment, _ in segments]
        if found and all(map(is_silent, found)):
            return ()
        if any(map(is_doubtful, found)):
            return self._decode_slowly(chunk, chunk.samples, 0.0, order, language)
        ends = [end for _, end in segments]
        missing_s = find_missing(found, ends, chunk.length_s, has_times=order.timestamps)
        if missing_s is None:
            return tuple(found)
        again = self._decode_slowly(chunk, chunk.samples[int(missing_s * RATE_HZ) :], missing_s, order, language)
        if missing_s:
            return (*found, *again)
        return max(tuple(found), again, key=lambda these: sum(len(one.text) for one in these))

    def _decode_slowly(
        self, chunk: Chunk, samples: Samples, start_s: float, order: Order, language: str
    ) -> tuple[Segment, ...]:
        segments, _ = self._whisper.transcribe(
            samples,
            language=language,
            task=order.task,
            beam_size=self._beam_size,
            temperature=order.temperature or _TEMPERATURES,
            initial_prompt=order.prompt or None,
            hotwords=order.hotwords or None,
            word_timestamps=order.words,
            # A window that was left half done shows only by its times.
            without_timestamps=False,
            condition_on_previous_text=False,
        )
        return tuple(_shift(segment, chunk, start_s) for segment in segments)

    def _make_options(self, order: Order, tokenizer: Tokenizer) -> TranscriptionOptions:
        return TranscriptionOptions(
            beam_size=self._beam_size,
            best_of=1,
            patience=1,
            length_penalty=1,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
            log_prob_threshold=None,
            no_speech_threshold=None,
            compression_ratio_threshold=None,
            condition_on_previous_text=False,
            prompt_reset_on_temperature=0.5,
            temperatures=[0.0],
            initial_prompt=order.prompt or None,
            prefix=None,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            without_timestamps=not order.timestamps,
            max_initial_timestamp=0.0,
            word_timestamps=order.words,
            prepend_punctuations=_BEFORE_WORDS,
            append_punctuations=_AFTER_WORDS,
            multilingual=False,
            max_new_tokens=None,
            clip_timestamps=[],
            hallucination_silence_threshold=None,
            hotwords=order.hotwords or None,
        )


class _Encoded:
    """What chunks are encoded to, in the place of the features that the pipeline would encode."""

    def __init__(self, encoded: Sequence[Any]) -> None:
        self.storage = _as_storage(np.concatenate(encoded))
        self.shape = (len(encoded),)

    def __len__(self) -> int:
        return len(self.shape)


class _Batched(WhisperModel):  # type: ignore[misc]  # it ships no types
    """The same model as the pipeline sees it: encoded already, and no text is dropped."""

    def __init__(self, whole: WhisperModel) -> None:
        self.__dict__.update(whole.__dict__)

    def encode(self, features: _Encoded) -> ctranslate2.StorageView:
        return features.storage

    def _split_segments_by_timestamps(self, tokenizer: Tokenizer, tokens: list[int], **facts: Any) -> Any:
        """The segments, and as one more what stands behind the last timestamp, which would be left out."""
        segments, seek, is_closed = super()._split_segments_by_timestamps(tokenizer, tokens, **facts)
        left = tokens[sum(len(segment["tokens"]) for segment in segments) :]
        if any(token < tokenizer.eot for token in left):
            end_s = facts["time_offset"] + facts["segment_duration"]
            start_s = min(segments[-1]["end"], end_s)
            segments.append({"seek": facts["seek"], "start": start_s, "end": end_s, "tokens": left})
        return segments, seek, is_closed


def _as_storage(encoded: Any) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded))


def _read(made: dict[str, Any], chunk: Chunk) -> tuple[Segment, float]:
    """A segment of the pipeline in the file's time, and its end in the chunk's."""
    words = tuple(_make_word(word["word"], word["start"], word["end"], chunk, 0.0) for word in made.get("words", ()))
    segment = Segment(
        start_s=chunk.locate(made["start"]),
        end_s=chunk.locate(min(made["end"], chunk.length_s), is_end=True),
        text=made["text"],
        tokens=tuple(made["tokens"]),
        temperature=0.0,
        avg_logprob=float(made["avg_logprob"]),
        compression_ratio=float(made["compression_ratio"]),
        no_speech_prob=float(made["no_speech_prob"]),
        words=words,
    )
    return segment, float(made["end"])


def _shift(made: Any, chunk: Chunk, start_s: float) -> Segment:
    """A segment of `transcribe` in the file's time; it was given the chunk from `start_s` on."""
    words = tuple(_make_word(word.word, word.start, word.end, chunk, start_s) for word in made.words or ())
    return Segment(
        start_s=chunk.locate(start_s + made.start),
        end_s=chunk.locate(min(start_s + made.end, chunk.length_s), is_end=True),
        text=made.text,
        tokens=tuple(made.tokens),
        temperature=float(made.temperature),
        avg_logprob=float(made.avg_logprob),
        compression_ratio=float(made.compression_ratio),
        no_speech_prob=float(made.no_speech_prob),
        words=words,
    )


def _make_word(text: str, begin_s: float, end_s: float, chunk: Chunk, start_s: float) -> Word:
    begin = chunk.locate(start_s + float(begin_s))
    return Word(text, begin, max(begin, chunk.locate(start_s + float(end_s), is_end=True)))
