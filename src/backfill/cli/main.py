"""Where the commands come together."""

from typing import Annotated

import typer

from backfill import __version__
from backfill.cli.batches import cancel, download, list_batches, status, submit, watch
from backfill.cli.check import check
from backfill.cli.models import models
from backfill.cli.run import run
from backfill.cli.serve import serve

__all__ = ["main"]

app = typer.Typer(
    name="backfill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a usage error is a line or two of text, not a drawing
)
app.command()(serve)
app.command()(run)
app.command()(check)
app.command()(submit)
app.command()(status)
app.command()(watch)
app.command("list")(list_batches)
app.command()(cancel)
app.command()(download)
app.add_typer(models, name="models")


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
