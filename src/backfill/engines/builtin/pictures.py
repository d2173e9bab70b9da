"""A picture in a request to a built-in engine: its bytes have to be there, in a form that the engine knows. Pure.

`dispatch` has put them in and seen that they are whole; what somebody else sends is at least none of those that would
have the engine follow a link or take all memory.
"""

import base64
from typing import Any, Final

from backfill.engines.builtin.members import RequestRefused
from backfill.wire import read_data_url_size

__all__ = ["PICTURE_PARTS", "TAKEN_PICTURES", "explain_part", "read_picture"]

TAKEN_PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp"})
"""Media types of what llama.cpp reads."""
PICTURE_PARTS: Final = ("image_url", "input_image")
_MAGICS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
_MAGIC_CHARACTERS: Final = 12
_MOST_PIXELS: Final = 100_000_000


def read_picture(part: dict[str, Any], where: str) -> dict[str, Any]:
    """The part as llama.cpp knows it; the same object if it is that already.

    Raises:
        RequestRefused: it holds no picture that the engine could take.

    """
    named = part.get("image_url")
    param = f"{where}.image_url" if isinstance(named, str) else f"{where}.image_url.url"
    url = named.get("url") if isinstance(named, dict) else named
    if not isinstance(url, str):
        raise RequestRefused(f"'{param}' must be a data: URL with a picture.", param)
    header, comma, _ = url[:512].partition(",")
    if not comma or header[:5].lower() != "data:" or not header.lower().endswith(";base64"):
        raise RequestRefused(f"'{param}' must be data:TYPE;base64,DATA; the engine follows no links.", param)
    start = len(header) + 1
    try:
        head = base64.b64decode(url[start : start + _MAGIC_CHARACTERS])
    except ValueError:
        head = b""
    if not head.startswith(_MAGICS):
        raise RequestRefused(f"'{param}' holds no PNG, JPEG, GIF or BMP.", param)
    width, height = read_data_url_size(url) or (0, 0)
    if width * height > _MOST_PIXELS:
        raise RequestRefused(f"'{param}' is {width:,} x {height:,} pixels; that is too large.", param)
    if isinstance(named, dict) and part.get("type") == "image_url":
        return part
    return {"type": "image_url", "image_url": {"url": url}}


def explain_part(kind: object, *, sees: bool) -> str:
    """Why a content part of this type is not taken."""
    named = f"of type {kind[:80]!r}" if isinstance(kind, str) else "without a type"
    if sees:
        return f"is a part {named}; this engine takes text and pictures only."
    hint = "; pictures need an engine of kind llamacpp with a projector" if kind in PICTURE_PARTS else ""
    return f"is a part {named}; this engine takes text only{hint}."
