"""Where the commands come together."""

from typing import Annotated

import typer

from backfill import __version__
from backfill.cli.serve import serve

__all__ = ["main"]

app = typer.Typer(name="backfill", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Batch inference on your own hardware: the Together and OpenAI Batch APIs, a server and a command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
