"""Why requests of a batch failed, and a new batch of them: `failures`, `retry`."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from backfill.cli.batch_groups import GROUP_PREFIX, BatchGroup, find_group
from backfill.cli.batch_offers import offer_batches
from backfill.cli.batches import report_submitted, watch
from backfill.cli.connection import KeyVariable, Url, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.options import AsJson
from backfill.cli.remote import RemoteServer
from backfill.cli.submission import Submitted
from backfill.errors import Conflict

__all__ = ["failures", "retry"]

_CUSTOM_IDS_SHOWN = 3
_Failures = dict[str, Any]

_BatchId = Annotated[
    str,
    typer.Argument(metavar="BATCH_ID", help="As `backfill submit` printed it.", autocompletion=offer_batches),
]


def failures(batch_id: _BatchId, *, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Show why requests failed, grouped by reason, with how many there are of each."""

    async def work(server: RemoteServer) -> list[_Failures]:
        group = await find_group(server, batch_id)
        return _merge([await server.list_failures(batch["id"]) for batch in group.batches])

    groups = ask_server(work, url, api_key_env, as_json=as_json)
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

    async def work(server: RemoteServer) -> Submitted:
        ended = await find_group(server, batch_id)
        if ended.is_cut:
            return await _retry_parts(server, ended, code=reason, group=group)
        batch, warning = await server.retry_batch(ended.id, code=reason, group=group)
        return Submitted(BatchGroup(batch["id"], (batch,)), warning)

    submitted = ask_server(work, url, api_key_env, as_json=as_json)
    report_submitted(submitted, as_json=as_json)
    if not as_json:
        say(f"{submitted.group.summary['request_counts']['total']:,} requests run again")
    if wait:
        watch(submitted.group.id, url=url, api_key_env=api_key_env, as_json=as_json)


async def _retry_parts(server: RemoteServer, ended: BatchGroup, *, code: str | None, group: str | None) -> Submitted:
    """A new group of what failed in each part; raises Conflict if none has any such request."""
    ended.check_ended()
    group_id = f"{GROUP_PREFIX}{uuid.uuid4().hex}"
    failed = []
    for batch in ended.batches:
        causes = await server.list_failures(batch["id"]) if batch["request_counts"]["failed"] else []
        if any(code in (None, cause["code"]) and group in (None, cause["id"]) for cause in causes):
            failed.append(batch)
    if not failed:
        kind = "" if code is group is None else " of that kind"
        raise Conflict(f"No request{kind} failed in {ended.id}.", code="nothing_to_retry")
    made: list[dict[str, Any]] = []
    warning = None
    for number, batch in enumerate(failed, start=1):
        metadata = {"group": group_id, "part": str(number), "parts": str(len(failed))}
        again, told = await server.retry_batch(batch["id"], metadata, code=code, group=group)
        made.append(again)
        warning = told or warning
    return Submitted(BatchGroup(group_id, tuple(made), len(made)), warning)


def _merge(lists: Sequence[list[_Failures]]) -> list[_Failures]:
    """What failed for one reason, in whichever part, together; most first."""
    merged: dict[str, _Failures] = {}
    for group in (group for groups in lists for group in groups):
        known = merged.setdefault(group["id"], group)
        if known is not group:
            known["count"] += group["count"]
            known["custom_ids"] = [*known["custom_ids"], *group["custom_ids"]][:_CUSTOM_IDS_SHOWN]
            known["first_at"] = min(filter(None, (known["first_at"], group["first_at"])), default=None)
            known["last_at"] = max(filter(None, (known["last_at"], group["last_at"])), default=None)
    return sorted(merged.values(), key=lambda group: -group["count"])
