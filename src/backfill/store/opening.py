"""Where the settings say that blobs lie. Without an object store, nothing of its library is loaded."""

from pathlib import Path

from backfill.config import StoreConfig
from backfill.errors import InvalidConfig
from backfill.store.blobs import Blobs
from backfill.store.local_blobs import LocalBlobs

__all__ = ["open_blobs"]


def open_blobs(config: StoreConfig, data_dir: Path) -> Blobs:
    """The blobs of an installation; for the caller to close.

    Raises:
        InvalidConfig: an object store is named, and the package for it is not installed.
        StoreUnavailable: the data directory cannot be used.

    """
    if not config.blobs:
        return LocalBlobs(data_dir / "blobs")
    try:
        from backfill.store.objects.opening import open_objects  # noqa: PLC0415 - a library that few need
    except ModuleNotFoundError as error:
        message = f"Files shall lie in an object store (store.blobs), but {error.name} is not installed: backfill[s3]."
        raise InvalidConfig(message, param="store.blobs") from None
    return open_objects(config, data_dir / "cache")
