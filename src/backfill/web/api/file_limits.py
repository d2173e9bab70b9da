"""What one file may hold for who sends it: the server's limits, or those of the key."""

import re

from backfill.api_key import Caller
from backfill.intake import FileLimits, Intake

__all__ = ["find_limits", "read_limits", "write_limits"]

_WRITTEN = re.compile(r"([0-9]{1,15})-([0-9]{1,15})(?:-([0-9]{1,15}))?")


def find_limits(intake: Intake, caller: Caller) -> FileLimits:
    """Those of the caller's key where it has any."""
    own, general = caller.limits, intake.file_limits
    if own.lines is None and own.file_size_bytes is None:
        return general
    return FileLimits(
        own.lines or general.lines,
        own.file_size_bytes or general.size_bytes,
        own.file_size_bytes or general.media_size_bytes,
        is_own=True,
    )


def write_limits(limits: FileLimits) -> str:
    """For a signed address, whose bytes come without a key; empty for the server's own limits."""
    return f"{limits.lines}-{limits.size_bytes}-{limits.media_size_bytes}" if limits.is_own else ""


def read_limits(intake: Intake, written: str) -> FileLimits:
    """What `write_limits` wrote; the signature says that it did."""
    found = _WRITTEN.fullmatch(written)
    if found is None:
        return intake.file_limits
    # An address of before there were media has two numbers.
    return FileLimits(int(found[1]), int(found[2]), int(found[3] or found[2]), is_own=True)
