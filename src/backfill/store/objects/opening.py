"""The way to a bucket, as the settings and the usual AWS variables name it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from backfill.config import StoreConfig
from backfill.store.objects.blobs import ObjectBlobs
from backfill.store.objects.client import ObjectClient, Stores
from backfill.store.objects.windows import CacheRoom

if TYPE_CHECKING:
    from obstore.store import ClientConfig

__all__ = ["open_objects"]

_CONNECT_TIMEOUT = "5s"
# Of one call, whose bytes are bounded: an object of a journal at most.
_TIMEOUT = "60s"
# Until the first byte of an answer, and between two: one that stands still is found out before its callers give up.
# While much is sent nothing is answered, so that this is not asked of what is large.
_SILENCE = "8s"


def open_objects(config: StoreConfig, folder: Path) -> ObjectBlobs:
    """The blobs at `config.blobs`; `folder` is for what was read of them. Asks nothing yet."""
    # The parts of an upload are out of our hands, so that they are tried again inside.
    stores = Stores(_make_store(config, _SILENCE), _make_store(config), _make_store(config, retries=10))
    return ObjectBlobs(ObjectClient(stores), CacheRoom(folder, config.s3_cache_bytes))


def _make_store(config: StoreConfig, silence: str = "", retries: int = 0) -> S3Store:
    place = urlsplit(config.blobs)
    keys = {
        "access_key_id": config.s3_access_key_id,
        "secret_access_key": config.s3_secret_access_key,
        "session_token": config.s3_session_token,
    }
    named: dict[str, Any] = {name: key.get_secret_value() for name, key in keys.items() if key is not None}
    named |= {"endpoint": config.s3_endpoint} if config.s3_endpoint else {}
    named |= {"region": config.s3_region} if config.s3_region else {}
    options: ClientConfig = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT}
    if silence:
        options["read_timeout"] = silence
    if config.s3_allow_http:
        options["allow_http"] = True
    return S3Store(
        place.hostname,
        prefix=place.path.strip("/") or None,
        client_options=options,
        retry_config={"max_retries": retries},
        **named,
    )
