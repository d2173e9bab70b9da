"""How many hostile references are let through: the figure that has to be nought."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from structlog.testing import capture_logs

from backfill.config import MediaConfig
from backfill.media import MediaLibrary, MediaRefused, MediaUnavailable
from backfill.media_file import MediaKind, MediaReference
from backfill.store import measure_folder
from bench.findings import Findings, Setting
from bench.media.hostile_names import leading
from bench.media.hostile_references import LIMITS, HostileReference, list_references, make_replies
from bench.media.hostile_server import HostileServer

__all__ = ["measure_hostile_references", "try_references"]

_INNER_HOSTS = ("127.0.0.2", "::1")


async def _try(
    library: MediaLibrary, batch_id: str, one: HostileReference, inner_connections: Callable[[], int]
) -> str | None:
    """What is wrong with what became of it."""
    media = library.open(batch_id, "owner")
    before = inner_connections()
    wrong = None
    try:
        file = await media.get(one.reference)
        wrong = f"gave {file.media_type} of {file.size_bytes} bytes"
    except MediaRefused as error:
        if not one.is_refused:
            wrong = f"is refused for good: {error.message}"
    except MediaUnavailable as error:
        if one.is_refused:
            wrong = f"was tried: {error.message}"
    finally:
        await media.close()
    return wrong if inner_connections() == before else "reached what is inside"


async def try_references(folder: Path) -> tuple[int, dict[str, str]]:
    """How many references were tried, and what became of those that were let through, by name."""
    async with AsyncExitStack() as stack:
        outer = await stack.enter_async_context(HostileServer())
        outer.replies = make_replies()
        inner = []
        for host in _INNER_HOSTS:
            server = HostileServer(host, outer.port)
            server.replies = make_replies()
            try:
                inner.append(await stack.enter_async_context(server))
            except OSError:
                # A machine without IPv6 has no such place.
                continue
        library = MediaLibrary(folder, MediaConfig(**LIMITS))
        stack.push_async_callback(library.close)
        stack.enter_context(leading())
        let_through: dict[str, str] = {}
        listed = list_references(outer.port)
        for number, one in enumerate(listed):
            wrong = await _try(library, str(number), one, lambda: sum(server.connections for server in inner))
            if wrong is not None:
                let_through[one.name] = wrong
        if library.cache.size_bytes or measure_folder(folder):
            let_through["the disk"] = f"still holds {measure_folder(folder)} bytes"
        # Who lets nothing through at all proves nothing.
        for good in (outer.url("/ok.png"), outer.url("/ok.png", "good.test"), outer.url("/to?/ok.png")):
            await library.open("good", "owner").get(MediaReference(MediaKind.PICTURE, good, ""))
    return len(listed), let_through


def measure_hostile_references(setting: Setting, findings: Findings) -> None:
    """Add `hostile_references_let_through`."""
    # On the loop that the server has; standard output is for the report alone.
    with capture_logs():
        count, let_through = uvloop.run(try_references(setting.make_folder()))
    findings.facts["hostile_references"] = count
    findings.add(hostile_references_let_through=len(let_through))
    findings.violations += [f"hostile reference let through: {name} {what}" for name, what in let_through.items()]
