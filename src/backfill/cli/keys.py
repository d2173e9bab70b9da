"""`backfill keys`: make, list, replace and revoke API keys, on a running server or in its data directory."""

import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from backfill.api_key import KeyLimits, Scope
from backfill.cli.connection import URL_VARIABLE, KeyVariable, ask_server
from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import end_on_error
from backfill.cli.options import AsJson, ConfigFile
from backfill.errors import InvalidInput

__all__ = ["keys"]

keys = typer.Typer(help="API keys: who may use the server, for what, and how much.", no_args_is_help=True)

_Object = dict[str, Any]
_Answer = TypeVar("_Answer")
_DURATION = re.compile(r"([1-9]\d{0,5})([mhdw])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

_Key = Annotated[str, typer.Argument(metavar="KEY", help="Its id, its name, or how it begins; never the key itself.")]
_Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help=f"A running server; {URL_VARIABLE}, or the data directory.")
]
_DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Of the server on this machine.")]


class _KeyHolder(Protocol):
    """A server or a data directory."""

    async def list_keys(self) -> list[_Object]: ...
    async def create_key(self, members: _Object) -> _Object: ...
    async def revoke_key(self, key_id: str) -> None: ...


@keys.command("create")
def create_command(  # noqa: PLR0913 - an option each
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to know the key by.")],
    *,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose files and batches it works on; the name otherwise.")
    ] = None,
    scopes: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it is good for; again for more. Else batch and live."),
    ] = None,
    limits: Annotated[
        list[str] | None, typer.Option("--limit", metavar="LIMIT=N", help="A limit of its own; again for more.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help='How long it lets in, such as "30d"; for ever otherwise.')
    ] = None,
    url: _Url = None,
    api_key_env: KeyVariable = None,
    config_file: ConfigFile = None,
    data_dir: _DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. It holds at once."""
    with end_on_error(as_json=as_json):
        members = {
            "name": name,
            "owner": owner,
            "scopes": [str(scope) for scope in scopes] if scopes else None,
            "limits": _parse_limits(limits) if limits else None,
            "expires_in_seconds": _parse_duration(expires) if expires else None,
        }
    given = {member: value for member, value in members.items() if value is not None}
    place = _Place(url, api_key_env, config_file, data_dir)
    _show_made(place.ask(lambda holder: holder.create_key(given), as_json=as_json), place, as_json=as_json)


@keys.command("rotate")
def rotate_command(  # noqa: PLR0913 - an option each
    key: _Key,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Let the old one in too, until it is revoked.")] = False,
    url: _Url = None,
    api_key_env: KeyVariable = None,
    config_file: ConfigFile = None,
    data_dir: _DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a new key in the place of one: same name, owner, scopes and limits. The old one is revoked."""

    async def work(holder: _KeyHolder) -> _Object:
        old = _find(await holder.list_keys(), key)
        limits = {name: limit for name, limit in old["limits"].items() if limit is not None}
        members = {"name": old["name"], "owner": old["owner"]["id"], "scopes": old["scopes"], "limits": limits}
        if old["expires_at"] is not None:
            # It holds as long from now on as the old one did from when it was made.
            members["expires_in_seconds"] = old["expires_at"] - old["created_at"]
        made = await holder.create_key(members)
        if not keep:
            await holder.revoke_key(old["id"])
        return made

    place = _Place(url, api_key_env, config_file, data_dir)
    _show_made(place.ask(work, as_json=as_json), place, as_json=as_json)


@keys.command("list")
def list_command(
    *,
    show_all: Annotated[bool, typer.Option("--all", help="Those that were revoked too.")] = False,
    url: _Url = None,
    api_key_env: KeyVariable = None,
    config_file: ConfigFile = None,
    data_dir: _DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the keys, newest first: who has which, for what, with which limits, until when."""
    place = _Place(url, api_key_env, config_file, data_dir)
    listed = place.ask(lambda holder: holder.list_keys(), as_json=as_json)
    shown = [each for each in listed if show_all or each["revoked_at"] is None]
    if as_json:
        emit(shown)
        return
    for line in _draw(shown):
        write_out(line)
    say(f"{len(shown):,} keys {place}" if shown else f"no keys {place}")


@keys.command("revoke")
def revoke_command(
    key: _Key,
    *,
    url: _Url = None,
    api_key_env: KeyVariable = None,
    config_file: ConfigFile = None,
    data_dir: _DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody in with a key any more, from now on. Files and batches stay its owner's."""

    async def work(holder: _KeyHolder) -> _Object:
        found = _find(await holder.list_keys(), key)
        await holder.revoke_key(found["id"])
        return found

    place = _Place(url, api_key_env, config_file, data_dir)
    revoked = place.ask(work, as_json=as_json)
    if as_json:
        emit({"event": "key_revoked", "id": revoked["id"], "name": revoked["name"]})
    else:
        say(f"revoked: {revoked['id']}, {revoked['redacted_value']}, of {revoked['owner']['id']} {place}")


class _Place:
    """Where the keys are: at a URL if one is named, else in the data directory that the settings name."""

    def __init__(
        self, url: str | None, api_key_env: str | None, config_file: Path | None, data_dir: Path | None
    ) -> None:
        # A data directory that was named is meant, whatever stands in the environment.
        self._url = url or (None if data_dir else os.environ.get(URL_VARIABLE))
        self._api_key_env = api_key_env
        self._config_file = config_file
        self._data_dir = data_dir

    def __str__(self) -> str:
        return f"at {self._url}" if self._url else f"in {self._data_dir}"

    def ask(self, work: Callable[[_KeyHolder], Awaitable[_Answer]], *, as_json: bool) -> _Answer:
        """What `work` comes to there; ends the command on an error."""
        if self._url:
            return ask_server(work, self._url, self._api_key_env, as_json=as_json)
        # Loads the store, which no command needs that asks a server.
        from backfill.cli.local_keys import ask_data_dir  # noqa: PLC0415
        from backfill.config import load_config  # noqa: PLC0415

        with end_on_error(as_json=as_json):
            given = {} if self._data_dir is None else {"data_dir": self._data_dir}
            config = load_config(self._config_file, overrides=given)
            self._data_dir = config.data_dir
            return ask_data_dir(work, config)


def _show_made(made: _Object, place: _Place, *, as_json: bool) -> None:
    if as_json:
        emit(made)
        return
    # Alone on standard output, so that a script can keep it.
    write_out(made["value"])
    scopes, until = ", ".join(made["scopes"]), _name_end(made)
    say(f"made {place}: {made['id']} of {made['owner']['id']}, for {scopes}, {until}; the key is shown this once")


def _find(listed: Sequence[_Object], named: str) -> _Object:
    """The one key that is meant; raises InvalidInput if it is none, or one of several."""
    active = [each for each in listed if each["revoked_at"] is None]
    found = [
        each
        for each in active
        if named in {each["id"], each["name"], each["redacted_value"], each["redacted_value"].removesuffix("...")}
    ]
    if not found:
        message = f"There is no key {named!r} that could be revoked; `backfill keys list` shows them."
        raise InvalidInput(message, param="key")
    if len(found) > 1:
        ids = ", ".join(each["id"] for each in found)
        raise InvalidInput(f"Several keys are called {named!r}: name one by its id, of {ids}.", param="key")
    return found[0]


def _parse_limits(given: Sequence[str]) -> dict[str, int]:
    known = KeyLimits.__struct_fields__
    limits = {}
    for each in given:
        name, _, number = each.partition("=")
        if name not in known or not re.fullmatch(r"[1-9][\d_]{0,20}", number):
            message = f"--limit takes NAME=N with N above 0 and NAME one of {', '.join(known)}; got {each!r}."
            raise InvalidInput(message, param="limit")
        limits[name] = int(number.replace("_", ""))
    return limits


def _parse_duration(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        message = f'--expires takes a number of minutes, hours, days or weeks, such as "90m", "30d"; got {text!r}.'
        raise InvalidInput(message, param="expires")
    return int(match[1]) * _UNITS_S[match[2]]


def _draw(listed: Sequence[_Object]) -> list[str]:
    rows = [
        (
            each["id"],
            each["redacted_value"],
            each["name"],
            each["owner"]["id"],
            ",".join(each["scopes"]),
            _name_end(each),
            ", ".join(f"{name}={limit:,}" for name, limit in each["limits"].items() if limit is not None),
        )
        for each in listed
    ]
    if not rows:
        return []
    rows.insert(0, ("ID", "KEY", "NAME", "OWNER", "SCOPES", "UNTIL", "LIMITS"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _name_end(key: _Object) -> str:
    if key["revoked_at"] is not None:
        return f"revoked {_name_time(key['revoked_at'])}"
    if key["expires_at"] is None:
        return "no end"
    return f"{'expired' if key['expires_at'] <= time.time() else 'until'} {_name_time(key['expires_at'])}"


def _name_time(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
