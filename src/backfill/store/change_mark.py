"""How processes on one data directory tell each other that something has changed, at the cost of a look at 16 bytes."""

import os
from pathlib import Path

import structlog

from backfill.errors import StoreUnavailable
from backfill.store.permissions import FILE_MODE

__all__ = ["ChangeMark"]

_SIZE_BYTES = 16
_log = structlog.get_logger(__name__)


class ChangeMark:
    """Random bytes in a file that every process has open: whoever changes what they stand for renews them, afterwards.

    Whoever looks first at the mark and then at the thing may keep what it saw for as long as the mark is the same.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            message = f"Cannot open {path}: {error.strerror or error}."
            raise StoreUnavailable(message) from error
        if len(self.read()) < _SIZE_BYTES:
            self.renew()

    def read(self) -> bytes:
        """The mark as it is now; nothing if it cannot be told. The page is in memory: a thread would cost far more."""
        try:
            return os.pread(self._descriptor, _SIZE_BYTES, 0)
        except OSError:
            return b""

    def renew(self) -> None:
        """Say that something has changed. Two who do so at once say it both, since neither counts."""
        try:
            os.pwrite(self._descriptor, os.urandom(_SIZE_BYTES), 0)
        except OSError as error:
            # What has changed is written already, and is found without the mark, if later.
            _log.warning("other processes learn late that something has changed", reason=error.strerror)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
