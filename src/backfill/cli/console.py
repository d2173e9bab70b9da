"""Where words go: results to standard output, everything for people to standard error."""

import os
import sys
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from backfill.wire.words import name_duration, name_size

__all__ = ["BROKEN_PIPE", "CONSOLE", "emit", "name_duration", "name_size", "say", "write_out"]

BROKEN_PIPE = 141
"""Exit code when nobody reads standard output any more: that of a shell command that SIGPIPE ended."""

CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True)
"""For people. Colours only at a terminal, and not where NO_COLOR is set."""


def say(text: str, *, label: str = "", style: str = "") -> None:
    """One line for people, behind a label such as "error" if there is one."""
    line = Text()
    if label:
        line.append(label, style=f"bold {style}").append(": ")
    CONSOLE.print(line.append(text), markup=False)


def emit(value: Any) -> None:
    """One JSON value on a line of standard output."""
    write_out(msgspec.json.encode(value).decode())


def write_out(text: str) -> None:
    """A line of the result on standard output, seen at once."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
