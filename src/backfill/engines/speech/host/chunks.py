"""Where in a piece somebody speaks, in chunks of what the model hears at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from faster_whisper.vad import SpeechTimestampsMap, VadOptions, get_speech_timestamps

from backfill.engines.speech.host.audio import RATE_HZ, Piece, Samples

__all__ = ["CHUNK_S", "Chunk", "cut_speech"]

CHUNK_S: Final = 30.0
"""What Whisper hears at once."""
_SILENCE_MS: Final = 160


@dataclass(frozen=True, slots=True)
class Chunk:
    """Speech of at most `CHUNK_S`, with the longer silences left out."""

    samples: Samples
    start_s: float
    """Where its piece begins in the file."""
    times: SpeechTimestampsMap

    @property
    def length_s(self) -> float:
        """How much speech it is."""
        return len(self.samples) / RATE_HZ

    def locate(self, time_s: float, *, is_end: bool = False) -> float:
        """A time within the chunk as a time in the file."""
        return round(self.start_s + float(self.times.get_original_time(time_s, is_end=is_end)), 3)


def cut_speech(piece: Piece) -> Iterator[Chunk]:
    """The chunks of a piece, in order; none where nobody speaks: on silence Whisper makes words up."""
    options = VadOptions(max_speech_duration_s=CHUNK_S, min_silence_duration_ms=_SILENCE_MS)
    held: list[dict[str, Any]] = []
    size = 0
    for span in get_speech_timestamps(piece.samples, options):
        length = span["end"] - span["start"]
        if held and size + length > CHUNK_S * RATE_HZ:
            yield _make(piece, held)
            held, size = [], 0
        held.append(span)
        size += length
    if held:
        yield _make(piece, held)


def _make(piece: Piece, spans: list[dict[str, Any]]) -> Chunk:
    samples = np.concatenate([piece.samples[span["start"] : span["end"]] for span in spans])
    return Chunk(samples, piece.start_s, SpeechTimestampsMap(spans, RATE_HZ))
