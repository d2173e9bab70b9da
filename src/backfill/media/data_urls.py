"""What a `data:` URL holds: strictly base64, and measured before anything is decoded."""

import binascii

from backfill.media.failures import MediaRefused

__all__ = ["decode_data_url", "is_data_url"]

_SCHEME = "data:"
# The type and its parameters; whoever writes more has no picture in mind.
_LONGEST_HEADER = 512


def is_data_url(source: str) -> bool:
    """Whether the source has its bytes in itself."""
    return source[: len(_SCHEME)].lower() == _SCHEME


def decode_data_url(source: str, limit_bytes: int, limit_setting: str) -> bytes:
    """The bytes; raises MediaRefused. The type that it names is not read: what the bytes are is seen in them."""
    comma = source.find(",", 0, _LONGEST_HEADER)
    if comma < 0:
        raise MediaRefused('The data: URL has no comma: its form is "data:TYPE;base64,DATA".')
    if not source[len(_SCHEME) : comma].lower().endswith(";base64"):
        raise MediaRefused('The data: URL is not in base64: its form is "data:TYPE;base64,DATA".')
    length = len(source) - comma - 1
    padding = 0 if not length else source.count("=", max(comma + 1, len(source) - 2))
    size_bytes = length // 4 * 3 - padding
    if size_bytes > limit_bytes:
        raise MediaRefused(
            f"The data: URL holds {size_bytes:,} bytes; at most {limit_bytes:,} are taken ({limit_setting})."
        )
    if length % 4:
        raise MediaRefused("The data: URL is cut off: base64 comes in groups of four characters.")
    try:
        # From the comma on, so that no second text of this size is made.
        data = binascii.a2b_base64(memoryview(source.encode("ascii"))[comma + 1 :], strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MediaRefused("The data: URL has characters that are not base64, or padding in its middle.") from None
    if not data:
        raise MediaRefused("The data: URL holds nothing.")
    return data
