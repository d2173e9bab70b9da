"""Clips of known speech, made by eSpeak NG, and how much of what was said is found in what was heard."""

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.media.voice import Samples, say, write_ogg

__all__ = ["SpokenClip", "count_found", "make_clips", "make_long_clip"]

_SENTENCES = (
    "The train to the central station leaves at seven in the morning.",
    "Please bring the blue folder with all the papers to the meeting on Thursday.",
    "We measured the temperature of the water every day during the winter.",
    "My sister bought a small house near the river, and the garden is full of apple trees.",
    "The weather will be cloudy in the north, with some rain in the afternoon.",
    "Nobody could explain why the engine stopped twice on the way to the airport.",
    "A good map is worth more than a fast horse when the road is unknown.",
    "The library opens early, and closes late in the evening on weekdays.",
)
# Between two sentences, in seconds.
_PAUSES_S = (0.1, 1.2)


@dataclass(frozen=True)
class SpokenClip:
    """A file, and the words in it."""

    path: Path
    text: str
    length_s: float


def make_clips(folder: Path, count: int, lengths_s: tuple[float, float]) -> list[SpokenClip]:
    """So many clips, of lengths drawn from a range."""
    dice = random.Random(5)
    return [
        _make(folder / f"clip-{number:04}.ogg", dice.uniform(*lengths_s), random.Random(number))
        for number in range(count)
    ]


def make_long_clip(folder: Path, length_s: float) -> SpokenClip:
    """One clip that is at least so long."""
    return _make(folder / "long.ogg", length_s, random.Random(7), cuts=False)


def count_found(said: str, heard: str) -> tuple[int, int]:
    """Of the words said, how many were heard as often as they were said; and how many were said."""
    wanted, found = Counter(_find_words(said)), Counter(_find_words(heard))
    return sum((wanted & found).values()), wanted.total()


def _make(path: Path, length_s: float, dice: random.Random, *, cuts: bool = True) -> SpokenClip:
    """Whole sentences, the last of which may be left out where a clip must not be longer."""
    parts: list[Samples] = []
    texts: list[str] = []
    size, rate_hz = 0, 1
    while size < length_s * rate_hz or not texts:
        text = dice.choice(_SENTENCES)
        samples, rate_hz = say(text)
        pause = np.zeros(int(dice.uniform(*_PAUSES_S) * rate_hz), np.int16)
        if cuts and texts and size + len(samples) > length_s * rate_hz:
            break
        parts += [samples, pause]
        texts.append(text)
        size += len(samples) + len(pause)
    write_ogg(path, np.concatenate(parts), rate_hz)
    return SpokenClip(path, " ".join(texts), size / rate_hz)


def _find_words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
