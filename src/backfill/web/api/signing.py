"""Signed upload addresses: whoever holds one may fill one reserved file, or one part of it, without a key."""

import hashlib
import hmac
import re
import time
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from starlette.exceptions import HTTPException

from backfill.config import ServerConfig
from backfill.errors import InvalidInput

__all__ = ["check_signature", "file_subject", "make_part_urls", "make_upload_url", "part_subject"]

_HOST = re.compile(r"[A-Za-z0-9._\-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
_EXPIRY = re.compile(r"\d{1,12}")


def make_upload_url(request: Request, server: ServerConfig, signing_key: bytes, file_id: str, limits: str = "") -> str:
    """An absolute URL that this client can reach and that takes the file's bytes, within limits of its own if any."""
    query = _sign_query(server, signing_key, file_subject(file_id, limits)) + (f"&limits={limits}" if limits else "")
    return f"{_find_root(request, server.public_url)}/v1/uploads/{file_id}?{query}"


def make_part_urls(
    request: Request, server: ServerConfig, signing_key: bytes, upload_id: str, part_count: int
) -> list[str]:
    """One such URL for each part of an upload, from the first."""
    root = f"{_find_root(request, server.public_url)}/v1/uploads/{upload_id}/parts"
    return [
        f"{root}/{number}?{_sign_query(server, signing_key, part_subject(upload_id, number))}"
        for number in range(1, part_count + 1)
    ]


def file_subject(file_id: str, limits: str) -> str:
    """What the address of a file's bytes is signed for."""
    return f"{file_id}?{limits}" if limits else file_id


def part_subject(upload_id: str, part_number: int) -> str:
    """What the address of a part is signed for; no id of a file has a slash."""
    return f"{upload_id}/{part_number}"


def check_signature(signing_key: bytes, subject: str, expires: str, signature: str) -> None:
    """Raises a 403 unless this server signed an address for `subject` and it has not expired."""
    expected = _sign(signing_key, subject, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise HTTPException(403, "The signature of this upload address is not valid.")
    if not _EXPIRY.fullmatch(expires) or int(expires) < time.time():
        raise HTTPException(403, "This upload address has expired; ask for a new one.")


def _sign_query(server: ServerConfig, signing_key: bytes, subject: str) -> str:
    expires = int(time.time()) + server.upload_url_valid_s
    return urlencode({"expires": expires, "signature": _sign(signing_key, subject, str(expires))})


def _sign(signing_key: bytes, subject: str, expires: str) -> str:
    # The purpose stands in front, so that no other use of the key can yield a valid address.
    content = f"upload\n{subject}\n{expires}".encode("utf-8", "replace")
    return hmac.new(signing_key, content, hashlib.sha256).hexdigest()


def _is_host(host: str) -> bool:
    try:
        # Raises ValueError for what only looks like an IPv6 address, and for a port that is none.
        return _HOST.fullmatch(host) is not None and (urlsplit(f"//{host}").port or 0) >= 0
    except ValueError:
        return False


def _find_root(request: Request, public_url: str) -> str:
    if public_url:
        return public_url.rstrip("/").removesuffix("/v1")
    # Only whoever sent this header gets the address: whatever it says, no other client is led there.
    host = request.headers.get("host", "")
    if not _is_host(host):
        raise InvalidInput("The Host header is missing or not a host name.", code="invalid_host")
    return f"{request.scope['scheme']}://{host}"
