"""`backfill usage`: what was used on a server and what it costs, by day or whatever else one wants to know it by."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from backfill.cli.connection import KeyVariable, Url, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.options import AsJson
from backfill.cli.usage_table import draw_usage
from backfill.errors import InvalidInput

__all__ = ["usage"]

_GROUPINGS = ("day", "hour", "model", "key", "owner", "batch")
_ROWS_MAX = 10_000
_Page = dict[str, Any]


def _offer_groupings(incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{word}" for word in _GROUPINGS if word.startswith(last)]


def usage(  # noqa: PLR0913 - an option each
    *,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="WORDS",
            help=f"A row for each {', '.join(_GROUPINGS)}; several as day,model.",
            autocompletion=_offer_groupings,
        ),
    ] = "day",
    since: Annotated[str | None, typer.Option("--from", metavar="DAY", help="The first day, UTC; 30 days ago.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DAY", help="The last day, UTC; today.")] = None,
    url: Url = None,
    api_key_env: KeyVariable = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="A table for programs, with amounts to the last digit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what batches used and what that costs; with an admin's key those of everybody."""

    async def work(server: Any) -> _Page:
        page: _Page = await server.get_usage(_make_query(by, since, until))
        return page

    page = ask_server(work, url, api_key_env, as_json=as_json)
    if as_json:
        emit(page)
    elif as_csv:
        for line in _render_csv(page):
            write_out(line)
    else:
        for line in draw_usage(page):
            write_out(line)
        if page["total"]["unpriced_models"]:
            say(f"without a price, and not in the sums: {', '.join(page['total']['unpriced_models'])}")
        if page["has_more"]:
            say(f"only the first {len(page['data']):,} rows; the total is of all")


def _make_query(by: str, since: str | None, until: str | None) -> dict[str, str]:
    words = [word.strip() for word in by.split(",") if word.strip()]
    for word in words:
        if word not in _GROUPINGS:
            message = f"--by takes {', '.join(_GROUPINGS)}, or several of them as day,model; got {word!r}."
            raise InvalidInput(message, param="by")
    query = {"limit": str(_ROWS_MAX)} | ({"by": ",".join(words)} if words else {})
    if since is not None:
        query["start_time"] = str(int(_read_day(since, "--from").timestamp()))
    if until is not None:
        query["end_time"] = str(int((_read_day(until, "--to") + timedelta(days=1)).timestamp()))
    return query


def _read_day(text: str, option: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        message = f"{option} takes a day such as 2026-11-26; got {text!r}."
        raise InvalidInput(message, param=option.removeprefix("--")) from None


def _render_csv(page: _Page) -> list[str]:
    """A header and a line for each row; what is not known is empty."""
    columns = [name for name in (page["data"][0] if page["data"] else page["total"]) if name != "unpriced_models"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*columns, "currency", "unpriced_models"])
    for row in page["data"]:
        table.writerow([*(row[name] for name in columns), page["currency"], " ".join(row["unpriced_models"])])
    return text.getvalue().splitlines()
