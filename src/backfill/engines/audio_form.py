"""A request for an audio endpoint as the form that engines take: its members as fields, the clip as a file.

The clip is read while it is sent and never held whole; each try opens it anew.
"""

import io
from collections.abc import Sequence
from typing import Final

import aiohttp
from aiohttp import hdrs

from backfill.media_file import MediaFile

__all__ = ["find_timeout_s", "make_form"]

# Even a busy core writes down a clip in the time that it takes to hear it.
_SECONDS_PER_SECOND: Final = 1.0
# Of a clip whose length is not known: what speech takes at the least, and the longest that is thought of.
_LEAST_BYTES_PER_S: Final = 2000
_LONGEST_CLIP_S: Final = 4 * 3600.0
_ANY_BYTES: Final = "application/octet-stream"


def make_form(
    fields: Sequence[tuple[str, str]], clip: MediaFile, content: io.BufferedReader
) -> tuple[aiohttp.MultipartWriter, dict[str, str]]:
    """The form, and the headers that it needs."""
    writer = aiohttp.MultipartWriter("form-data")
    for name, value in fields:
        writer.append(value).set_content_disposition("form-data", name=name)
    part = writer.append(content, {hdrs.CONTENT_TYPE: _ANY_BYTES})
    part.set_content_disposition("form-data", name="file", filename=clip.filename)
    for part, _, _ in writer:
        # Parsers of the standard library of old do not take it within a form.
        part.headers.popall(hdrs.CONTENT_LENGTH, None)
    return writer, {hdrs.CONTENT_TYPE: writer.content_type}


def find_timeout_s(request_timeout_s: float, clip: MediaFile) -> float:
    """How long a request for the clip may take: longer than others if it takes that long to hear it."""
    length_s = clip.size_bytes / _LEAST_BYTES_PER_S if clip.duration_ms is None else clip.duration_ms / 1000
    return max(request_timeout_s, min(length_s, _LONGEST_CLIP_S) * _SECONDS_PER_SECOND)
