"""The log itself may not be writable: that ends nothing."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from backfill.cli.logs import configure_logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = structlog.get_config()
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - it cannot be closed without an error
    monkeypatch.setattr(sys, "stderr", full)
    try:
        configure_logs(as_json=True)
        for number in range(3):
            structlog.get_logger("a").error("no room", number=number)
    finally:
        structlog.configure(**before)
        monkeypatch.undo()
        # What is left in its buffer has nowhere to go.
        with suppress(OSError):
            full.close()
