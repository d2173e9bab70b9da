"""What a request names, and the request with the bytes of that in it, as an engine wants them."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from backfill.batch import AUDIO_ENDPOINTS
from backfill.config import MediaConfig
from backfill.media.data_urls import decode_data_url, is_data_url
from backfill.media.failures import MediaRefused
from backfill.media.formats import HEAD_BYTES, find_format
from backfill.media.inspection import check_size
from backfill.media.pictures import READABLE, check_picture, convert_picture
from backfill.media_file import MediaFile, MediaKind, MediaReference
from backfill.wire import put_in

__all__ = ["Named", "check_fit", "check_inline", "put_media_in"]


_AUDIO_PATHS = " and ".join(AUDIO_ENDPOINTS)


class Named(NamedTuple):
    """What a request names, without the bytes that stand in it."""

    fetched: tuple[MediaReference, ...] = ()
    """What has to be on disk before it is sent."""
    kinds: Mapping[MediaKind, str] = MappingProxyType({})
    """Of which kinds that is, and the member that names the first of each."""
    has_data: bool = False
    """Whether bytes stand in the request itself."""

    @classmethod
    def sort(cls, references: Iterable[MediaReference], *, passes_links: bool) -> "Named":
        """`passes_links`: the engine follows links itself."""
        fetched, has_data = [], False
        kinds: dict[MediaKind, str] = {}
        for reference in references:
            kinds.setdefault(reference.kind, reference.param)
            if is_data_url(reference.source):
                has_data = True
            elif not (passes_links and reference.source[:8].lower().startswith(("http:", "https:"))):
                fetched.append(reference)
        return cls(tuple(fetched), kinds, has_data)


def check_fit(engine: str, kinds: Mapping[MediaKind, str], *, pictures: AbstractSet[str] | None, clips: bool) -> None:
    """Raise MediaRefused if an engine that takes this takes nothing of such a kind.

    `kinds`: as in `Named`.
    """
    if MediaKind.PICTURE in kinds and pictures is not None and not pictures:
        message = f"Engine {engine} takes no pictures; of the built-in ones llama.cpp does, with a projector."
        raise MediaRefused(message, param=kinds[MediaKind.PICTURE])
    if MediaKind.AUDIO in kinds and not clips:
        message = f"Engine {engine} takes no audio in such a request; the built-in ones hear it at {_AUDIO_PATHS} only."
        raise MediaRefused(message, param=kinds[MediaKind.AUDIO])


def check_inline(references: Iterable[MediaReference], config: MediaConfig) -> None:
    """Raise MediaRefused if a picture that stands in a request is too large, or would be once it is unpacked.

    Only headers are read, and what is no picture that can be read here is for the engine to judge.
    """
    for reference in references:
        if reference.kind is MediaKind.PICTURE and is_data_url(reference.source):
            try:
                _check_header(reference.source, config)
            except MediaRefused as refused:
                raise MediaRefused(refused.message, param=reference.param) from None


def _check_header(source: str, config: MediaConfig) -> None:
    text = source.partition(",")[2]
    check_size(len(text) // 4 * 3, MediaKind.PICTURE, config, "The picture")
    try:
        # As engines read it, that pass over what is no base64.
        data = binascii.a2b_base64(text)
    except ValueError:
        return
    found = find_format(data[:HEAD_BYTES])
    if found is not None and found.media_type in READABLE:
        check_picture(data, config, decode=False)


def put_media_in(
    endpoint: str,
    body: bytes,
    found: Mapping[MediaReference, MediaFile],
    inline: Iterable[MediaReference] = (),
    *,
    pictures: AbstractSet[str] | None,
    config: MediaConfig,
) -> bytes:
    """The request with data: URLs in the places of what it names. Blocks on disk.

    `pictures` are the media types that the engine takes; None: it judges itself. `inline` is what stands in the request
    itself, which is only looked at where it does not.

    Raises:
        MediaRefused: a picture is not whole, or none that the engine takes or could be made one.
        OSError: a file cannot be read.

    """
    urls = {}
    for reference, file in found.items():
        if reference.kind is MediaKind.PICTURE and pictures is not None:
            urls[reference.source] = _convert(reference, file.path, pictures, config)
        else:
            urls[reference.source] = _make_url(file.path.read_bytes(), file.media_type)
    for reference in inline:
        if reference.kind is MediaKind.PICTURE and pictures is not None:
            urls[reference.source] = _convert(reference, None, pictures, config)
    return put_in(endpoint, body, urls) if urls else body


def _convert(reference: MediaReference, path: Path | None, pictures: AbstractSet[str], config: MediaConfig) -> str:
    try:
        picture: Path | bytes
        if path is not None:
            picture = path
        else:
            picture = decode_data_url(reference.source, config.picture_size_bytes, "media.picture_size_bytes")
        data, media_type = convert_picture(picture, frozenset(pictures), config)
    except MediaRefused as refused:
        raise MediaRefused(refused.message, param=reference.param) from None
    label = f"data:{media_type};"
    if data is picture and reference.source[: len(label)].lower() == label:
        return reference.source  # not a byte is another
    return _make_url(data, media_type)


def _make_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
