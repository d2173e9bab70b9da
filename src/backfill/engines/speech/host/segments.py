"""What was said, and when: times are those of the file, in seconds."""

from dataclasses import dataclass

__all__ = ["Segment", "Spoken", "Transcript", "Word"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word, with the space or the signs that stand at it."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sentence or so, with what Whisper says of how sure it is."""

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was said in a chunk, and in which language."""

    language: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in a file."""

    language: str | None
    """As Whisper's code; None: nobody speaks, and none was named."""
    length_s: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All of it on one line, without spaces around it."""
        return "".join(segment.text for segment in self.segments).strip()
