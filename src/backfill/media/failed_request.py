"""What a failed request means: refused for good, or to be tried again.

Nothing of an error's own text is told: it may hold the whole link, and that may be a secret.
"""

import errno
import ssl

import aiohttp
import structlog

from backfill.config import MediaConfig
from backfill.media.failures import MediaRefused
from backfill.network import FORBIDDEN_ERRNO

__all__ = ["PASSING_STATUSES", "TransferFailed", "judge_error"]

PASSING_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""Answers that may be others the next time."""
_PASSING: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "did not connect within {config.connect_timeout_s:g} s (media.connect_timeout_s)"),
    (aiohttp.SocketTimeoutError, "sent nothing for {config.read_timeout_s:g} s (media.read_timeout_s)"),
    (TimeoutError, "took longer than {config.fetch_timeout_s:g} s (media.fetch_timeout_s)"),
    (aiohttp.ClientConnectorDNSError, "has a host whose name cannot be looked up"),
    (aiohttp.ClientProxyConnectionError, "cannot be fetched: the proxy is not reached (media.proxy)"),
    (aiohttp.ClientConnectorSSLError, "cannot be connected to with TLS"),
    (aiohttp.ClientPayloadError, "was cut off"),
    (aiohttp.ServerDisconnectedError, "closed the connection"),
    (aiohttp.ClientResponseError, "answers with what is no HTTP"),
)
"""Of an error the first that fits: how the sentence goes on after the name of the link."""
_log = structlog.get_logger(__name__)


class TransferFailed(Exception):
    """It did not work this time. `reason` goes on after the name of the link."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


def judge_error(error: Exception, config: MediaConfig, subject: str) -> MediaRefused | TransferFailed:
    """What to raise for what a request raised; `subject` names the link."""
    refusal = _find_refusal(error)
    if refusal is not None:
        return MediaRefused(f"{subject} {refusal}.")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return TransferFailed(f"cannot be fetched: the proxy answers HTTP {error.status} (media.proxy)")
    for kind, reason in _PASSING:
        if isinstance(error, kind):
            return TransferFailed(reason.format(config=config))
    if isinstance(error, aiohttp.ClientConnectorError):
        name = errno.errorcode.get(error.os_error.errno or 0, "no address answers")
        return TransferFailed(f"cannot be connected to: {name}")
    if isinstance(error, aiohttp.ClientOSError):
        return TransferFailed("closed the connection")
    _log.warning("a fetch failed in an odd way", reason=type(error).__name__)
    return TransferFailed(f"failed with {type(error).__name__}")


def _find_refusal(error: Exception) -> str | None:
    """Why it will always fail, None if it may not."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = error.certificate_error
            told = f": {reason.verify_message}" if isinstance(reason, ssl.SSLCertVerificationError) else ""
            return f"has a certificate that is not trusted{told}"
        case aiohttp.ClientHttpProxyError() if error.status not in PASSING_STATUSES:
            return f"is not let through by the proxy: HTTP {error.status} (media.proxy)"
        case aiohttp.ClientConnectorError() if error.os_error.errno == FORBIDDEN_ERRNO:
            return "is not at a public address (media.allow)"
        case aiohttp.InvalidURL() | UnicodeError():
            return "has a host that no host can have"
        case _:
            return None
