"""Logs go to standard error: readable at a terminal, JSON lines elsewhere if asked for."""

import logging
import os
import sys
from contextlib import suppress

import structlog

__all__ = ["configure_logs"]


class _StandardError:
    """Standard error as it is when it is written to: a progress bar puts itself in its place to stay below the logs."""

    # A log that lies on a full disk, or that nobody reads any more, must not end the work that it tells of.

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure_logs(*, as_json: bool, quiet: bool = False) -> None:
    """Set up structlog for this process; `quiet` shows errors only."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_StandardError()),  # type: ignore[arg-type]  # it prints, no more
    )
