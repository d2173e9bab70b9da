"""Whether what a model made of a chunk can be right: pure, from its segments."""

from collections.abc import Sequence
from typing import Final

from backfill.engines.speech.host.segments import Segment

__all__ = ["find_missing", "is_doubtful", "is_silent"]

# The first three are those of Whisper's authors.
_COMPRESSION_MAX: Final = 2.4
_LOGPROB_MIN: Final = -1.0
_NO_SPEECH_MIN: Final = 0.6
_MISSING_S: Final = 5.0
# Slow speech has two to three tokens a second in English, and more in most languages.
_TOKENS_PER_S_MIN: Final = 0.7


def is_silent(segment: Segment) -> bool:
    """Whether the model itself thinks that nobody speaks."""
    return segment.no_speech_prob > _NO_SPEECH_MIN and segment.avg_logprob < _LOGPROB_MIN


def is_doubtful(segment: Segment) -> bool:
    """Whether the text repeats itself, or the model is unsure of it."""
    return segment.compression_ratio > _COMPRESSION_MAX or segment.avg_logprob < _LOGPROB_MIN


def find_missing(
    segments: Sequence[Segment], ends_s: Sequence[float], length_s: float, *, has_times: bool
) -> float | None:
    """From where on a chunk of so much speech is to be heard again, in its own time; None: it is whole.

    `ends_s` are the segments' ends in the chunk's time. Without times only the little text shows that something is
    missing, and not where: then it is the whole chunk.
    """
    if has_times:
        last_s = max(ends_s, default=0.0)
        return last_s if length_s - last_s > _MISSING_S else None
    tokens = sum(len(segment.tokens) for segment in segments)
    return 0.0 if length_s > _MISSING_S and tokens < _TOKENS_PER_S_MIN * length_s else None
