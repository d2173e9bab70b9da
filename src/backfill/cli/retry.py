"""Why requests of a batch failed, and a new batch of them: `failures`, `retry`."""

from typing import Annotated, Any

import typer

from backfill.cli.batches import watch
from backfill.cli.connection import KeyVariable, Url, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.options import AsJson
from backfill.cli.remote import RemoteServer

__all__ = ["failures", "retry"]

_BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="As `backfill submit` printed it.")]


def failures(batch_id: _BatchId, *, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Show why requests failed, grouped by reason, with how many there are of each."""
    groups = ask_server(lambda server: server.list_failures(batch_id), url, api_key_env, as_json=as_json)
    if as_json:
        emit(groups)
        return
    if not groups:
        say("no request failed")
    for group in groups:
        write_out(f"{group['count']:>7,}  {group['code']}  {group['reason']}")
        shown = ", ".join(group["custom_ids"])
        write_out(f"{'':7}  {shown}{', …' if group['count'] > len(group['custom_ids']) else ''}")
        write_out(f"{'':7}  backfill retry {batch_id} --group {group['id']}")


def retry(  # noqa: PLR0913 - an option each
    batch_id: _BatchId,
    *,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="CODE", help="Only those with this code in the error file.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="ID", help="Only those of this group of `backfill failures`.")
    ] = None,
    url: Url = None,
    api_key_env: KeyVariable = None,
    wait: Annotated[bool, typer.Option("--wait", help="Go on as `backfill watch` does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new batch of the requests that failed in an ended one, and print its id."""

    async def work(server: RemoteServer) -> tuple[dict[str, Any], str | None]:
        return await server.retry_batch(batch_id, code=reason, group=group)

    batch, warning = ask_server(work, url, api_key_env, as_json=as_json)
    if as_json:
        emit({"event": "submitted", "batch_id": batch["id"], "batch": batch, "warning": warning})
    else:
        write_out(batch["id"])
        say(f"{batch['request_counts']['total']:,} requests run again")
    if warning:
        say(warning, label="warning", style="yellow")
    if wait:
        watch(batch["id"], url=url, api_key_env=api_key_env, as_json=as_json)
