"""Speech for tests, and the words that are found in what an engine heard."""

import re
from pathlib import Path

from backfill.media_file import MediaFile
from bench.media.voice import say, write_wave

__all__ = ["SENTENCES", "as_media", "find_words", "say", "write_wave"]

SENTENCES = (
    "The train to the central station leaves at seven in the morning.",
    "Please bring the blue folder with all the papers to the meeting on Thursday.",
    "We measured the temperature of the water every day of the winter.",
    "My sister bought a small house near the river, and the garden is full of apple trees.",
    "Nobody could explain why the engine stopped on the way to the airport.",
    "The weather will be cloudy in the north, with some rain in the afternoon.",
)
"""In words that a small model hears."""


def as_media(path: Path, media_type: str = "audio/wav") -> MediaFile:
    """The file as it would be after it was fetched."""
    return MediaFile(
        path=path, filename=path.name, media_type=media_type, size_bytes=path.stat().st_size, sha256=path.name
    )


def find_words(text: str) -> list[str]:
    """Its words in small letters, without signs."""
    return re.findall(r"[a-z0-9']+", text.lower())
