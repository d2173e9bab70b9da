"""How many tokens a request takes whose pictures and clips are no text; before anything is fetched or decoded. Pure."""

from typing import NamedTuple

from backfill.media_file import MediaKind
from backfill.wire.media_references import (
    MediaPlace,
    ReferenceFault,
    find_places,
    may_have_media,
    may_have_media_elsewhere,
)
from backfill.wire.picture_size import read_data_url_size

__all__ = ["BYTES_PER_TOKEN", "MediaNeed", "guess_prompt_tokens", "weigh_media"]

BYTES_PER_TOKEN = 4
"""A rough but steady rule for text of mixed languages; the engine counts exactly."""
_SHORT = 64
_UNKNOWN_PICTURE_TOKENS = 1100
_LOW_DETAIL_TOKENS = 85
# As Qwen2.5-VL counts: a token for each square of so many pixels, of sides rounded to whole ones.
_SQUARE_PIXELS = 28
_FEWEST_PICTURE_TOKENS, _MOST_PICTURE_TOKENS = 4, 16384


class MediaNeed(NamedTuple):
    """What a request has besides its text."""

    pictures: int = 0
    clips: int = 0
    size_bytes: int = 0
    """How many bytes of the request are no text."""
    tokens: int = 0
    """What the pictures take to be read; clips are counted by their seconds, once these are known."""
    is_faulty: bool = False
    """Something is named in a form that says nothing."""


def guess_prompt_tokens(body: bytes, messages: bytes, items: bytes) -> int:
    """What the prompt of a request takes, with its pictures; `messages` and `items` are its `messages` and `input`."""
    if (messages and may_have_media(messages)) or (items and may_have_media_elsewhere(items)):
        need = weigh_media(body)
        return (len(body) - need.size_bytes) // BYTES_PER_TOKEN + need.tokens
    return len(body) // BYTES_PER_TOKEN


def weigh_media(body: bytes) -> MediaNeed:
    """What the messages of a request name."""
    pictures = clips = size_bytes = tokens = 0
    try:
        for place in find_places(None, body):
            size_bytes += _measure(body, place.reference.source)
            if place.reference.kind is MediaKind.AUDIO:
                clips += 1
            else:
                pictures += 1
                tokens += _guess_tokens(place)
    except ReferenceFault:
        return MediaNeed(pictures, clips, min(size_bytes, len(body)), tokens, is_faulty=True)
    return MediaNeed(pictures, clips, min(size_bytes, len(body)), tokens)


def _measure(body: bytes, source: str) -> int:
    """How many bytes a source takes in the request, quotes included; some writers escape what stands in base64."""
    length = len(source) + 2
    if length > _SHORT:
        start = body.find(source[:_SHORT].encode())
        if start < 0 or body.find(b"\\", start, start + length - 2) >= 0:
            slash_bytes, plus_bytes = (b"\\/" in body) + 1, 6 if b"\\u002" in body else 1
            length += source.count("/") * (slash_bytes - 1) + source.count("+") * (plus_bytes - 1)
    return length


def _guess_tokens(place: MediaPlace) -> int:
    """One rule fits no two models; this one is of those that take most."""
    if place.detail == "low":
        return _LOW_DETAIL_TOKENS
    source = place.reference.source
    size = read_data_url_size(source) if source[:5].lower() == "data:" else None
    if size is None:
        return _UNKNOWN_PICTURE_TOKENS
    width, height = (max(1, round(side / _SQUARE_PIXELS)) for side in size)
    return min(max(_FEWEST_PICTURE_TOKENS, width * height), _MOST_PICTURE_TOKENS)
