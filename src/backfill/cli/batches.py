"""Commands for batches on a running server: submit, status, watch, list, pause, resume, cancel, download."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from backfill.cli.batch_groups import FINAL, BatchGroup, find_group, name_part
from backfill.cli.batch_offers import offer_batches, offer_ended, offer_unended
from backfill.cli.connection import KeyVariable, Url, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.engine_table import draw_engines
from backfill.cli.failures import ALL_ANSWERED, INTERRUPTED, SOME_FAILED, UNUSABLE, end_on_error
from backfill.cli.following import count_lines, follow_progress, follow_results, name_expected, name_status
from backfill.cli.options import AsJson, Endpoint, SkipInvalidLines, Window
from backfill.cli.progress import ProgressDisplay
from backfill.cli.remote import RemoteServer
from backfill.cli.request_source import find_source
from backfill.cli.result_tables import ResultForm, choose_form, download_as_table
from backfill.cli.results import name_errors_file
from backfill.cli.submission import Submitted, submit_requests
from backfill.cli.table_batches import check_table_target, download_table
from backfill.cli.table_options import TableOptions, takes_table_options
from backfill.cli.tables import preview_table
from backfill.cli.usage_table import name_cost
from backfill.local import check_target, replacing
from backfill.status import ReplicaStatus
from backfill.wire import find_endpoint

__all__ = [
    "cancel",
    "download",
    "list_batches",
    "pause",
    "report_submitted",
    "resume",
    "status",
    "submit",
    "watch",
    "webhook_secret",
]

_NEWEST = 5

_Batch = dict[str, Any]
_HELP = "As `backfill submit` printed it."
_BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help=_HELP, autocompletion=offer_batches)]
_UnendedId = Annotated[str, typer.Argument(metavar="BATCH_ID", help=_HELP, autocompletion=offer_unended)]
_EndedId = Annotated[str, typer.Argument(metavar="BATCH_ID", help=_HELP, autocompletion=offer_ended)]


@takes_table_options
def submit(  # noqa: PLR0913 - an option each
    input_name: Annotated[
        str, typer.Argument(metavar="INPUT", help="Requests, one JSON object a line; or, with --prompt, a table.")
    ],
    *,
    table: TableOptions,
    endpoint: Endpoint = "/v1/chat/completions",
    model_id: Annotated[str | None, typer.Option(metavar="NAME", help="Model of requests that name none.")] = None,
    window: Window = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What to call the batch, in lists.")] = None,
    on_invalid_lines: SkipInvalidLines = None,
    url: Url = None,
    api_key_env: KeyVariable = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the end of the batch is told, by a signed POST.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Of more requests than one batch may have: once more, if all are there.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Go on as `backfill watch` does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file, make a batch of it and print its id; of a file too large for one, a group of batches."""
    with end_on_error(as_json=as_json):
        endpoint = table.choose_endpoint(find_endpoint(endpoint) or endpoint)
        if table.preview is not None:
            preview_table(input_name, table, endpoint, as_json=as_json)
            return
        source = find_source(input_name, table, endpoint)
    members = {
        "endpoint": endpoint,
        "model_id": model_id,
        "completion_window": window,
        "name": name,
        "on_invalid_lines": on_invalid_lines,
        "webhook_url": webhook,
    }
    submitted = ask_server(
        lambda server: submit_requests(server, source, members, again=again), url, api_key_env, as_json=as_json
    )
    report_submitted(submitted, as_json=as_json)
    if wait:
        watch(submitted.group.id, url=url, api_key_env=api_key_env, as_json=as_json)


def report_submitted(submitted: Submitted, *, as_json: bool) -> None:
    """Print the id of what was made."""
    group, warning = submitted.group, submitted.warning
    if as_json and group.is_cut:
        emit({"event": "submitted", "group_id": group.id, "batches": group.batches, "warning": warning})
    elif as_json:
        emit({"event": "submitted", "batch_id": group.id, "batch": group.summary, "warning": warning})
    else:
        write_out(group.id)
    if submitted.was_there:
        say(f"all {group.parts:,} batches of it were submitted before; --again submits the same requests once more")
    if warning:
        say(warning, label="warning", style="yellow")


def status(
    batch_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[BATCH_ID]",
            help="As `backfill submit` printed it; none: the server.",
            autocompletion=offer_batches,
        ),
    ] = None,
    *,
    url: Url = None,
    api_key_env: KeyVariable = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a batch is; without one, what the server's engines do and the newest batches."""
    if batch_id is None:
        _show_server(url, api_key_env, as_json=as_json)
    else:
        _show_batch(batch_id, url, api_key_env, as_json=as_json)


def _show_server(url: str | None, api_key_env: str | None, *, as_json: bool) -> None:
    async def work(server: RemoteServer) -> tuple[list[ReplicaStatus], list[_Batch]]:
        return await server.list_engines(), (await server.list_batches())[:_NEWEST]

    engines, batches = ask_server(work, url, api_key_env, as_json=as_json)
    if as_json:
        emit({"engines": engines, "batches": batches})
        return
    for line in draw_engines(engines):
        write_out(line)
    if batches:
        write_out("")
    for batch in batches:
        write_out("  ".join((batch["id"], *_summarise(batch))).rstrip())


def _show_batch(batch_id: str, url: str | None, api_key_env: str | None, *, as_json: bool) -> None:
    group = ask_server(lambda server: find_group(server, batch_id), url, api_key_env, as_json=as_json)
    batch = group.summary
    if as_json:
        emit(batch)
        return
    counts, reused, waiting = count_lines(batch), batch.get("reused"), batch.get("waiting")
    facts = {
        "name": batch.get("name"),
        "status": name_status(batch),
        "batches": f"{len(group.batches):,} of {group.parts:,}" if group.is_cut else None,
        "done": f"{counts.done:,} of {counts.total:,}, {counts.failed:,} failed ({batch['progress']:g} %)",
        "waiting": f"since {waiting['since']}: {waiting['message']} [{waiting['reason']}]" if waiting else None,
        "endpoint": batch["endpoint"],
        "webhook": batch.get("webhook_url"),
        "model": batch["model_id"],
        "created": batch["created_at"],
        "deadline": batch["job_deadline"],
        "expected": name_expected(batch),
        "completed": batch["completed_at"],
        "output": batch["output_file_id"],
        "errors": batch["error_file_id"],
        "reason": batch["error"],
        "reused": f"{reused['requests']:,} requests got the answer of an identical one" if reused else None,
        "cost": name_cost(batch.get("cost")),
    }
    for name, value in facts.items():
        if value:
            write_out(f"{name:10} {value}")
    for part in group.batches if group.is_cut else ():
        write_out("  ".join((part["id"], *_summarise(part))).rstrip())


def watch(
    batch_id: _BatchId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print each result as soon as it is there, instead of progress.")
    ] = False,
    url: Url = None,
    api_key_env: KeyVariable = None,
    as_json: AsJson = False,
) -> None:
    """Show progress until the batch ends. Exits with 0 if every request was answered, 1 if not."""
    try:
        if follow:
            group = ask_server(
                lambda server: follow_results(server, batch_id, as_json=as_json), url, api_key_env, as_json=as_json
            )
        else:
            with ProgressDisplay(as_json=as_json, with_tokens=False) as display:
                group = ask_server(
                    lambda server: follow_progress(server, batch_id, display), url, api_key_env, as_json=as_json
                )
    except KeyboardInterrupt:
        say(f"the batch goes on; `backfill watch {batch_id}` shows it again")
        raise typer.Exit(INTERRUPTED) from None
    batch = group.summary
    counts = count_lines(batch)
    say(f"{batch['status']}: {counts.answered:,} answered, {counts.failed:,} failed")
    if cost := name_cost(batch.get("cost")):
        say(f"cost: {cost}")
    if batch["error"]:
        say(batch["error"], label="error", style="red")
    if batch["output_file_id"] or batch["error_file_id"]:
        say(f"`backfill download {group.id}` fetches the results")
    if len(group.batches) < group.parts:
        left = group.parts - len(group.batches)
        say(
            f"{left:,} of its batches are not submitted yet; the same `backfill submit` does it",
            label="warning",
            style="yellow",
        )
    if as_json:
        emit({"event": "finished", "batch": batch})
    if group.is_rejected:
        raise typer.Exit(UNUSABLE)
    all_answered = batch["status"] == "COMPLETED" and not counts.failed and len(group.batches) == group.parts
    raise typer.Exit(ALL_ANSWERED if all_answered else SOME_FAILED)


def list_batches(*, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """List all batches, newest first."""
    batches = ask_server(lambda server: server.list_batches(), url, api_key_env, as_json=as_json)
    if as_json:
        emit(batches)
        return
    for batch in batches:
        created = batch["created_at"][:19].replace("T", " ")
        write_out("  ".join((batch["id"], created, *_summarise(batch), name_part(batch))).rstrip())
    if not batches:
        say("no batches yet")


def webhook_secret(*, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Print what messages to the addresses that batches name (`submit --webhook`) are signed with."""
    secret = ask_server(lambda server: server.get_webhook_secret(), url, api_key_env, as_json=as_json)
    if as_json:
        emit({"secret": secret})
    else:
        write_out(secret)


def pause(batch_id: _UnendedId, *, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Send nothing more of a batch until it is resumed; its deadline goes on."""
    batch = _change(batch_id, lambda server: server.pause_batch, url, api_key_env, as_json=as_json)
    if as_json:
        emit(batch)
    else:
        say(f"paused; `backfill resume {batch_id}` goes on with it. Its deadline is still {batch['job_deadline']}")


def resume(batch_id: _UnendedId, *, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Go on with a paused batch."""
    batch = _change(batch_id, lambda server: server.resume_batch, url, api_key_env, as_json=as_json)
    if as_json:
        emit(batch)
    else:
        say(f"it goes on; its deadline is {batch['job_deadline']}")


def cancel(batch_id: _UnendedId, *, url: Url = None, api_key_env: KeyVariable = None, as_json: AsJson = False) -> None:
    """Stop a batch; what is finished is kept."""
    batch = _change(batch_id, lambda server: server.cancel_batch, url, api_key_env, as_json=as_json)
    if as_json:
        emit(batch)
    else:
        say("cancelled; what is in flight may still finish")


def _change(
    batch_id: str,
    find_change: Callable[[RemoteServer], Callable[[str], Awaitable[_Batch]]],
    url: str | None,
    api_key_env: str | None,
    *,
    as_json: bool,
) -> _Batch:
    """Change a batch, or all of a group that go on; the batch object, or one that tells of all."""

    async def work(server: RemoteServer) -> BatchGroup:
        change = find_change(server)
        group = await find_group(server, batch_id)
        if not group.is_cut:
            return BatchGroup(group.id, (await change(group.id),))
        for batch in group.batches:
            if batch["status"] not in FINAL:
                await change(batch["id"])
        return await group.look_again(server)

    return ask_server(work, url, api_key_env, as_json=as_json).summary


@takes_table_options
def download(  # noqa: PLR0913 - an option each
    batch_id: _EndedId,
    *,
    table: TableOptions,
    output_path: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", dir_okay=False, help="Where the answers go; BATCH_ID.jsonl otherwise."
        ),
    ] = None,
    errors_path: Annotated[
        Path | None, typer.Option("--errors", metavar="FILE", dir_okay=False, help="Where failed requests go.")
    ] = None,
    table_name: Annotated[
        str | None,
        typer.Option("--table", metavar="TABLE", help="What the batch was made of; the answers go beside its rows."),
    ] = None,
    form: Annotated[
        ResultForm | None,
        typer.Option("--format", help="As csv or parquet: one table of all rows, also while the batch runs."),
    ] = None,
    url: Url = None,
    api_key_env: KeyVariable = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the answers and errors of an ended batch."""
    with end_on_error(as_json=as_json):
        chosen = choose_form(form, errors_path, table_name)
        if chosen is not ResultForm.JSONL:
            table.refuse_all(f"does not go with --format {chosen}; the server knows how the batch was made")
            server = (url, api_key_env)
            raise typer.Exit(download_as_table(batch_id, chosen, output_path, server, force=force, as_json=as_json))
        if table_name is not None:
            target = check_table_target(table_name, output_path, force=force)
            code = download_table(batch_id, table_name, target, table, (url, api_key_env), as_json=as_json)
            raise typer.Exit(code)
        table.refuse_all("is for tables, and goes with --table")
    output_path = output_path or Path(f"{batch_id}.jsonl")
    errors_path = errors_path or name_errors_file(output_path)

    paths = {"output": output_path, "errors": errors_path}
    fetched = ask_server(
        lambda server: _fetch_results(server, batch_id, paths, force=force), url, api_key_env, as_json=as_json
    )
    if as_json:
        emit({"batch_id": batch_id, **{name: str(fetched[name]) if name in fetched else None for name in _RESULTS}})
    elif not fetched:
        say("the batch has no results")
    for name, path in fetched.items():
        say(f"{_RESULTS[name]}: {path}")


async def _fetch_results(
    server: RemoteServer, batch_id: str, paths: dict[str, Path], *, force: bool
) -> dict[str, Path]:
    """Write the files that there are of an ended batch or group; which these were."""
    group = await find_group(server, batch_id)
    group.check_ended()
    file_ids = {"output": group.list_files("output_file_id"), "errors": group.list_files("error_file_id")}
    there = {name: path for name, path in paths.items() if file_ids[name]}
    for path in there.values():
        check_target(path, force=force)
    for name, path in there.items():
        with replacing(path) as target:
            for file_id in file_ids[name]:
                await server.download(file_id, target)
    return there


def _summarise(batch: _Batch) -> tuple[str, str, str, str]:
    counts = count_lines(batch)
    done = f"{counts.done:,}/{counts.total:,}"
    failed = f"{counts.failed:,} failed" if counts.failed else ""
    return f"{name_status(batch):11}", f"{done:>15}", f"{failed:14}", batch.get("name") or ""


_RESULTS = {"output": "answers", "errors": "errors"}
