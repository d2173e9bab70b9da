"""What can be kept of an answer that is nearly JSON, so that it need not be computed again. Pure, bytes to bytes.

Python's and JavaScript's encoders let lone surrogates through, Python's NaN and infinities too, and a server that cuts
text between bytes may send half a character.
"""

import re
from typing import Final

__all__ = ["hide_surrogates", "salvage"]

# Every piece that is mended costs a call: what is larger is lost, or it could hold up the event loop for seconds.
_SIZE_MAX_BYTES: Final = 8 * 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# A surrogate as UTF-8 would encode it. 0xED begins a character wherever it stands, so this is never part of another.
_RAW_SURROGATE: Final = re.compile(rb"\xed([\xa0-\xbf])([\x80-\xbf])")
# Escapes from left to right: of each pair of surrogates the two together, of lone ones the group, of others a byte.
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
# All up to a number that JSON does not have, strings as a whole. Possessive: it fails in one pass.
_UP_TO_NO_NUMBER: Final = re.compile(
    rb'((?:[^"NI-]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"|-(?![NI]))*+)-?(?:NaN|Infinity)', re.DOTALL
)


def salvage(body: bytes) -> bytes:
    r"""The body with what breaks JSON in place of the closest that does not.

    A raw surrogate becomes its escape (`\ud83d`), other bytes that are not UTF-8 become U+FFFD, NaN and the infinities
    null. Whether the whole is JSON now is for the caller to see.
    """
    if len(body) > _SIZE_MAX_BYTES:
        return body
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if not body.isascii():
        body = _RAW_SURROGATE.sub(_escape, body).decode(errors="replace").encode()
    if b"NaN" in body or b"Infinity" in body:
        body = _replace_no_numbers(body)
    return body


def hide_surrogates(body: bytes) -> bytes:
    """JSON for a parser that refuses escapes of lone surrogates, as msgspec does: the same, with U+FFFD for each."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)


def _escape(surrogate: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % (0xD000 | (surrogate[1][0] & 0x3F) << 6 | surrogate[2][0] & 0x3F)


def _replace_no_numbers(body: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while (found := _UP_TO_NO_NUMBER.match(body, position)) is not None:
        parts += (found[1], b"null")
        position = found.end()
    return b"".join((*parts, body[position:]))
