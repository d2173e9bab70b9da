"""What a process without engines and one with engines say to each other when a live request is passed on. Pure."""

import hashlib
import hmac
from typing import Final

__all__ = ["FAILURE_HEADER", "OWNER_HEADER", "RELAY_PATH", "RELAY_SECRET", "make_relay_key"]

RELAY_SECRET: Final = "live_relay_key"  # noqa: S105 - its name
"""Of what all processes of an installation know, and nobody else does."""
RELAY_PATH: Final = "/relay"
"""Stands before the path of the endpoint."""
OWNER_HEADER: Final = "x-backfill-owner"
"""Whose request it is, with percent signs for what no header takes: a file that it names has to be his."""
FAILURE_HEADER: Final = "x-backfill-failure"
"""The code of an error of the one with engines; an answer without this header is an engine's."""


def make_relay_key(secret: bytes, worker_id: str) -> str:
    """What has to be shown to this one process, and opens no other.

    It is an HMAC-SHA256 under the installation's secret. Who answers by mistake at an address that a worker had learns
    nothing that is good anywhere else.
    """
    return hmac.new(secret, b"live relay:" + worker_id.encode(), hashlib.sha256).hexdigest()
