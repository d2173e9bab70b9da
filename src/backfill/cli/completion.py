"""`backfill completion`: the script with which a shell asks `backfill` at the tab key what it may offer."""

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from backfill.cli.console import write_out

__all__ = ["Shell", "completion"]

_PROGRAM = "backfill"
_VARIABLE = "_BACKFILL_COMPLETE"


class Shell(StrEnum):
    """A shell that can be helped."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell that is to complete commands.")]) -> None:
    """Print the script with which bash, zsh or fish completes commands, options and ids of batches."""
    script = get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell.value)
    write_out(script)
