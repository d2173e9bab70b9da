"""Logs go to standard error: readable at a terminal, JSON lines elsewhere if asked for."""

import logging
import sys

import structlog

__all__ = ["configure_logs"]


def configure_logs(*, as_json: bool, quiet: bool = False) -> None:
    """Set up structlog for this process; `quiet` shows warnings and errors only."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
