"""Where the commands come together. A command's own module is loaded when that command is asked for, no sooner."""

import gc
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from backfill import __version__

__all__ = ["SUMMARIES", "main"]

SUMMARIES = {
    "serve": "Serve the API and work on batches until stopped.",
    "run": (
        "Run every request of a file and write the answers. Interrupted, the same command goes on where it stopped."
    ),
    "make": "Write the requests of a table's rows as JSON lines, for any server with a Batch API.",
    "join": "Put answers beside the rows that they are about. Takes the options with which the requests were made.",
    "check": "Name every line of a file that cannot be run, and why.",
    "estimate": "Say how many tokens a file takes, what they cost and how long they last, before anything is sent.",
    "submit": "Upload a file, make a batch of it and print its id; of a file too large for one, a group of batches.",
    "status": "Show how far a batch is; without one, what the server's engines do and the newest batches.",
    "top": "Show what a server does, live; Ctrl-C ends it.",
    "watch": "Show progress until the batch ends. Exits with 0 if every request was answered, 1 if not.",
    "list": "List all batches, newest first.",
    "pause": "Send nothing more of a batch until it is resumed; its deadline goes on.",
    "resume": "Go on with a paused batch.",
    "cancel": "Stop a batch; what is finished is kept.",
    "webhook-secret": "Print what messages to the addresses that batches name (`submit --webhook`) are signed with.",
    "failures": "Show why requests failed, grouped by reason, with how many there are of each.",
    "retry": "Make a new batch of the requests that failed in an ended one, and print its id.",
    "download": "Fetch the answers and errors of an ended batch.",
    "usage": "Show what batches used and what that costs; with an admin's key those of everybody.",
    "recover": ("Take files in again whose rows the database has lost. Exits with 1 if something cannot be had again."),
    "keys": "API keys: who may use the server, for what, and how much.",
    "gc": "Remove what is older than the settings allow; a server that runs does this by itself.",
    "models": "Models for the built-in engine.",
    "completion": "Print the script with which bash, zsh or fish completes commands, options and ids of batches.",
}
"""The commands in the order of the help, in their own words: it shows them without loading any."""

_FUNCTIONS = {"list": "list_batches", "webhook-secret": "webhook_secret"}
"""Of those commands whose function has another name."""
_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # a usage error is a line or two of text, not a drawing
}


def _load(name: str) -> Any:
    """The function of a command, or the group of those below it."""
    match name:
        case "serve":
            from backfill.cli.serve import serve

            return serve
        case "run":
            from backfill.cli.run import run

            return run
        case "keys":
            from backfill.cli.keys import keys

            return keys
        case "models":
            from backfill.cli.models import models

            return models
        case "completion":
            from backfill.cli.completion import completion

            return completion
        case "make" | "join":
            from backfill.cli import tables

            return getattr(tables, name)
        case "check" | "estimate" | "recover" | "gc":
            return _load_of_files(name)
        case _:
            return _load_of_server(name)


def _load_of_files(name: str) -> Any:
    """A command for files and folders here."""
    match name:
        case "check":
            from backfill.cli.check import check

            return check
        case "estimate":
            from backfill.cli.estimate import estimate

            return estimate
        case "recover":
            from backfill.cli.recover import recover

            return recover
        case _:
            from backfill.cli.gc import gc

            return gc


def _load_of_server(name: str) -> Any:
    """A command that asks a running server."""
    match name:
        case "usage":
            from backfill.cli.usage import usage

            return usage
        case "top":
            from backfill.cli.top import top

            return top
        case "failures" | "retry":
            from backfill.cli import retry

            return getattr(retry, name)
        case _:
            from backfill.cli import batches

            return getattr(batches, _FUNCTIONS.get(name, name))


class _Commands(Mapping[str, Any]):
    """Name -> command."""

    def __getitem__(self, name: str) -> Any:
        if name not in SUMMARIES:
            raise KeyError(name)
        alone = typer.Typer(**_SETTINGS)
        # Next to nothing of what modules make is garbage, and looking for it takes a tenth of a start.
        gc.disable()
        try:
            loaded = _load(name)
        finally:
            gc.enable()
        if isinstance(loaded, typer.Typer):
            alone.add_typer(loaded, name=name)
        else:
            alone.command(name)(loaded)
        return typer.main.get_group(alone).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


class _Group(TyperGroup):
    """All commands, of which none is loaded to be listed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": _Commands()})

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer calls it so
        """The names, in the order of the help."""
        return list(SUMMARIES)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The names and summaries."""
        self._list_alone().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """What the shell offers where the name of a command may stand."""
        alone = self._list_alone()
        return alone.shell_complete(type(ctx)(alone), incomplete)

    def _list_alone(self) -> TyperGroup:
        """A group of commands that can do nothing, but have names and summaries."""
        listed: dict[str, Any] = {name: TyperCommand(name, help=summary) for name, summary in SUMMARIES.items()}
        return TyperGroup(commands=listed, params=self.params)


app = typer.Typer(name="backfill", cls=_Group, no_args_is_help=True, **_SETTINGS)


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Batch inference on your own hardware: the Together and OpenAI Batch APIs, a server and a command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line, or answer a shell that asks what may stand at the end of a line."""
    if "_BACKFILL_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    app()
