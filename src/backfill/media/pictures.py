"""What a picture is, whether it is whole, and the same picture in a form that an engine takes. Slow: for threads.

A stranger's bytes: how large it is unpacked is known from its header before anything is, and only decoders of the
forms that are taken are tried.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backfill.config import MediaConfig
from backfill.media.failures import MediaRefused
from backfill.media.formats import HEAD_BYTES, TAKEN, name_format
from backfill.media_file import MediaKind

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["READABLE", "PictureFacts", "check_picture", "convert_picture"]

_DECODERS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
READABLE = frozenset(_DECODERS)
"""Media types of the pictures that can be looked into."""
_PNG = "image/png"
# A picture takes four bytes a pixel, and some again, while it is unpacked: large ones are, one at a time.
_LARGE_PIXELS = 4_000_000
_large = threading.Lock()


class PictureFacts(NamedTuple):
    """What a picture is, in pixels."""

    media_type: str
    width: int
    height: int


def check_picture(
    picture: bytes | Path, config: MediaConfig, *, decode: bool, subject: str = "The picture"
) -> PictureFacts:
    """What it is; raises MediaRefused if it is none that is taken, or larger than `media.picture_pixels`.

    `decode`: unpack it too, so that what is cut off or broken is noticed. `subject` names it at the beginning of a
    sentence.
    """
    with _opened(picture, config, subject) as (image, media_type):
        facts = PictureFacts(media_type, *image.size)
        if decode:
            with _room_for(image):
                _unpack(image, media_type, subject)
        return facts


def convert_picture(
    picture: bytes | Path, accepted: frozenset[str], config: MediaConfig, *, subject: str = "The picture"
) -> tuple[bytes, str]:
    """Its bytes and their media type: as they are if that is accepted, else as a PNG of its first frame.

    Raises:
        MediaRefused: it is none, not whole or too large; or neither its own form is accepted nor PNG.

    """
    with _opened(picture, config, subject) as (image, media_type), _room_for(image):
        if media_type in accepted:
            _unpack(image, media_type, subject)
            return picture if isinstance(picture, bytes) else picture.read_bytes(), media_type
        if _PNG in accepted:
            return _write_png(image, subject), _PNG
    taken = ", ".join(sorted(accepted)) or "none"
    raise MediaRefused(f"{subject} is {media_type}; of pictures, the engine takes {taken}.")


@contextmanager
def _opened(picture: bytes | Path, config: MediaConfig, subject: str) -> Iterator[tuple["Image", str]]:
    """A picture of which no more than the header was read."""
    from PIL import Image  # noqa: PLC0415 - only where there is a picture

    # Our own limit is lower, and comes with a sentence; theirs would warn on the log.
    Image.MAX_IMAGE_PIXELS = None
    with io.BytesIO(picture) if isinstance(picture, bytes) else picture.open("rb") as file:
        media_type = name_format(file.read(HEAD_BYTES))
        decoder = _DECODERS.get(media_type)
        if decoder is None:
            raise MediaRefused(f"{subject} is {media_type}; pictures are taken as {TAKEN[MediaKind.PICTURE]}.")
        file.seek(0)
        try:
            image = Image.open(file, formats=(decoder,))
        except Exception:  # noqa: BLE001 - bytes of a stranger, and decoders raise whatever these make them raise
            raise MediaRefused(f"{subject} begins as {media_type} does, but cannot be read.") from None
        with image:
            _check_pixels(*image.size, config.picture_pixels, subject)
            yield image, media_type


def _check_pixels(width: int, height: int, limit: int, subject: str) -> None:
    if width * height > limit:
        raise MediaRefused(
            f"{subject} is {width:,} x {height:,} pixels; it may have {limit:,} in all (media.picture_pixels)."
        )
    if not width * height:
        raise MediaRefused(f"{subject} has no pixels.")


@contextmanager
def _room_for(image: "Image") -> Iterator[None]:
    with _large if image.width * image.height > _LARGE_PIXELS else nullcontext():
        yield


def _unpack(image: "Image", media_type: str, subject: str) -> None:
    try:
        if media_type == "image/jpeg":
            image.draft(image.mode, (1, 1))  # all of it is read, and an eighth of each side unpacked
        image.load()
    except Exception:  # noqa: BLE001 - as above
        raise MediaRefused(f"{subject} is damaged or cut off: it cannot be unpacked to its end.") from None


def _write_png(image: "Image", subject: str) -> bytes:
    from PIL import ImageOps  # noqa: PLC0415 - only where there is a picture

    try:
        # A PNG does not say which side is up.
        turned = ImageOps.exif_transpose(image)
        plain = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
    except Exception:  # noqa: BLE001 - as above
        raise MediaRefused(f"{subject} is damaged or cut off: it cannot be unpacked to its end.") from None
    written = io.BytesIO()
    plain.save(written, "PNG", compress_level=1)
    return written.getvalue()
