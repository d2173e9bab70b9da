"""The command line. Holds no logic of its own: every command calls the rooms or the server."""

from backfill.cli.main import main

__all__ = ["main"]
