"""What `submit` sends: an upload and its batch, or, of more requests than one batch may have, a group of batches.

The id of a group follows from what is asked for. So a client that was killed in the middle finds what it has made when
it is called again, and makes the rest: no part twice, and none cut otherwise, since each batch says in its metadata how
the whole was cut.
"""

import asyncio
import hashlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from backfill.cli.batch_groups import GROUP_PREFIX, BatchGroup, list_parts
from backfill.cli.console import say
from backfill.cli.parts import Cut, LineCheck, Part, PartLimits, cut
from backfill.cli.remote import RemoteServer
from backfill.cli.request_source import FileSource, TableSource
from backfill.errors import BackfillError, InvalidInput

__all__ = ["Submitted", "submit_requests"]

_GROUP_DIGITS = 32
_NO_LIMITS = {"lines": sys.maxsize, "file_size_bytes": sys.maxsize, "custom_id_length": sys.maxsize}
_Source = FileSource | TableSource
_Members = Mapping[str, str | None]
_Batch = dict[str, Any]


class Submitted(NamedTuple):
    """The batch or the group that was made."""

    group: BatchGroup
    warning: str | None = None
    was_there: bool = False
    """Whether all of the group had been made before."""


async def submit_requests(server: RemoteServer, source: _Source, members: _Members, *, again: bool) -> Submitted:
    """Upload the requests and make a batch of them, or several where the server's limits ask for that.

    `members` are those of each batch. `again`: make a new group even if one of the same requests is there.
    """
    limits = await server.find_limits() or _NO_LIMITS
    lines, size_bytes = limits["lines"], limits["file_size_bytes"]
    if isinstance(source, FileSource) and not source.may_exceed(lines, size_bytes):
        file = await server.upload(source.path)
        batch, warning = await server.create_batch({**members, "input_file_id": file["id"]})
        return Submitted(BatchGroup(batch["id"], (batch,)), warning)
    # In a thread, so that connections which the server closes meanwhile are known to be closed.
    found = await asyncio.to_thread(
        _cut_checked, source, PartLimits(lines, size_bytes), limits["custom_id_length"], members
    )
    if not found.parts:
        what = "row about which something can be asked" if isinstance(source, TableSource) else "request"
        raise InvalidInput(f"{source.name} has no {what}.", param="input")
    if len(found.parts) == 1:
        part = found.parts[0]
        file = await server.upload_pieces(source.filename, source.read(part.start, part.size_bytes), part.sha256)
        batch, warning = await server.create_batch({**members, "input_file_id": file["id"]})
        return Submitted(BatchGroup(batch["id"], (batch,)), warning)
    return await _submit_group(server, source, found, members, again=again)


def _cut_checked(source: _Source, limits: PartLimits, custom_id_length: int, members: _Members) -> Cut:
    """The parts; raises InvalidInput if they cannot become batches."""
    # The ids of a table's rows are looked at as its requests are made.
    if isinstance(source, TableSource):
        return cut(source, limits)
    check = LineCheck(source, limits, custom_id_length, skips_faults=members.get("on_invalid_lines") == "error_file")
    found = cut(source, limits, check.look)
    check.finish()
    return found


async def _submit_group(
    server: RemoteServer, source: _Source, found: Cut, members: _Members, *, again: bool
) -> Submitted:
    group_id, there = await _choose_group(server, found.sha256, members, again=again)
    made = {int(batch["metadata"]["part"]): batch for batch in there}
    if there:
        # The server's limits, or those of the key, may have changed since.
        limits = PartLimits.read(there[0]["metadata"]["limits"])
        if limits != found.limits:
            found = await asyncio.to_thread(cut, source, limits)
    parts = found.parts
    was_there = len(made) == len(parts)
    warning = None
    for part in parts:
        if part.number in made:
            continue
        say(f"part {part.number:,} of {len(parts):,}: {part.requests:,} requests")
        try:
            made[part.number], told = await _submit_part(
                server, source, part, members, _describe(group_id, part, found)
            )
        except BackfillError as error:
            there_are = f"{len(made):,} of {len(parts):,} batches of {group_id} were made"
            message = f"{error.message} {there_are}; the same command makes the rest."
            raise BackfillError(message, code=error.code, param=error.param) from None
        warning = told or warning
    batches = tuple(made[part.number] for part in parts)
    return Submitted(BatchGroup(group_id, batches, len(parts)), warning, was_there)


async def _choose_group(
    server: RemoteServer, sha256: str, members: _Members, *, again: bool
) -> tuple[str, list[_Batch]]:
    """The group to make, and what there is of it: the newest for these requests, or the one behind that."""
    asked = msgspec.json.encode([sha256, sorted((name, value) for name, value in members.items() if value is not None)])

    def name(generation: int) -> str:
        digest = hashlib.sha256(b"%d %b" % (generation, asked)).hexdigest()
        return f"{GROUP_PREFIX}{digest[:_GROUP_DIGITS]}"

    generation = 0
    there = await list_parts(server, name(0))
    while there and (newer := await list_parts(server, name(generation + 1))):
        generation, there = generation + 1, newer
    if again and there and len(there) == int(there[0]["metadata"]["parts"]):
        return name(generation + 1), []
    return name(generation), there


def _describe(group_id: str, part: Part, found: Cut) -> dict[str, str]:
    return {
        "group": group_id,
        "part": str(part.number),
        "parts": str(len(found.parts)),
        "first_line": str(part.first_line),
        "limits": found.limits.write(),
    }


async def _submit_part(
    server: RemoteServer, source: _Source, part: Part, members: _Members, metadata: dict[str, str]
) -> tuple[_Batch, str | None]:
    """The batch of one part, and a warning if there is one."""
    filename = Path(source.filename).with_stem(f"{Path(source.filename).stem}-{part.number}").name
    file = await server.upload_pieces(filename, source.read(part.start, part.size_bytes), part.sha256)
    key = f"{metadata['group']}-{part.number}"
    try:
        return await server.create_batch(
            {**members, "input_file_id": file["id"]}, metadata=metadata, idempotency_key=key
        )
    except BackfillError as error:
        # Of a batch that was made after all, this is refused.
        with suppress(BackfillError):
            await server.delete_file(file["id"])
        if error.code == "idempotency_key_reuse":
            # Another client is at the same file, and was quicker.
            for batch in await list_parts(server, metadata["group"]):
                if batch["metadata"]["part"] == metadata["part"]:
                    return batch, None
        raise
