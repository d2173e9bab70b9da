"""Signed upload addresses: whoever holds one may fill one reserved file until it expires, without a key."""

import hashlib
import hmac
import re
import time
from urllib.parse import urlencode

from fastapi import Request
from starlette.exceptions import HTTPException

from backfill.config import ServerConfig
from backfill.errors import InvalidInput

__all__ = ["check_signature", "make_upload_url"]

_HOST = re.compile(r"[A-Za-z0-9._\-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
_EXPIRY = re.compile(r"\d{1,12}")


def make_upload_url(request: Request, server: ServerConfig, signing_key: bytes, file_id: str) -> str:
    """An absolute URL that this client can reach and that takes the file's bytes."""
    expires = int(time.time()) + server.upload_url_valid_s
    query = urlencode({"expires": expires, "signature": _sign(signing_key, file_id, str(expires))})
    return f"{_find_root(request, server.public_url)}/v1/uploads/{file_id}?{query}"


def check_signature(signing_key: bytes, file_id: str, expires: str, signature: str) -> None:
    """Raises a 403 unless this server signed the address and it has not expired."""
    expected = _sign(signing_key, file_id, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise HTTPException(403, "The signature of this upload address is not valid.")
    if not _EXPIRY.fullmatch(expires) or int(expires) < time.time():
        raise HTTPException(403, "This upload address has expired; ask for a new one with POST /v1/files.")


def _sign(signing_key: bytes, file_id: str, expires: str) -> str:
    # The purpose stands in front, so that no other use of the key can yield a valid address.
    content = f"upload\n{file_id}\n{expires}".encode("utf-8", "replace")
    return hmac.new(signing_key, content, hashlib.sha256).hexdigest()


def _find_root(request: Request, public_url: str) -> str:
    if public_url:
        return public_url.rstrip("/").removesuffix("/v1")
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidInput("The Host header is missing or not a host name.", code="invalid_host")
    return f"{request.url.scheme}://{host}"
