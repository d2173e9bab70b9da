"""What the requests of a file name: how many pictures and clips, and on demand which of them cannot be had."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backfill import media
from backfill.batch import AUDIO_ENDPOINTS, BatchProblem
from backfill.config import MediaConfig
from backfill.errors import InvalidInput
from backfill.index import LineIndex
from backfill.inflation import open_unpacked
from backfill.media_file import MediaKind, MediaReference
from backfill.wire import (
    HAS_FILE,
    HAS_MEDIA,
    ParsedLine,
    ReferenceFault,
    find_audio_problem,
    find_references,
    parse_line,
    read_fault,
)

__all__ = ["MediaReport", "fetch_media", "inspect_media_of"]

_UPLOAD, _DATA = "file-", "data:"
_LINES_AT_ONCE = 32
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class MediaReport(NamedTuple):
    """What was found."""

    pictures: int = 0
    clips: int = 0
    links: int = 0
    """Distinct ones."""
    uploads: int = 0
    """Distinct ids of files that only a server has."""
    problems: tuple[BatchProblem, ...] = ()
    """Of requests that name something in a form that says nothing."""


class _NamingLine(NamedTuple):
    number: int
    """In the file, from 1."""
    references: tuple[MediaReference, ...] = ()
    problem: BatchProblem | None = None


def inspect_media_of(path: Path, endpoint: str, index: LineIndex) -> MediaReport:
    """Look at each line that may name something; raises InvalidInput if the file cannot be read."""
    pictures = clips = 0
    links, uploads = set(), set()
    problems = []
    for line in _read_naming_lines(path, endpoint, index):
        if line.problem is not None:
            problems.append(line.problem)
        for reference in line.references:
            pictures += reference.kind is MediaKind.PICTURE
            clips += reference.kind is MediaKind.AUDIO
            if reference.source.startswith(_UPLOAD):
                uploads.add(reference.source)
            elif reference.source[: len(_DATA)].lower() != _DATA:
                links.add(reference.source)
    return MediaReport(pictures, clips, len(links), len(uploads), tuple(problems))


def fetch_media(path: Path, endpoint: str, index: LineIndex, config: MediaConfig) -> tuple[BatchProblem, ...]:
    """Fetch whatever the requests name, look at it and forget it: what of it cannot be had, in line order.

    Paths count from the folder of the file. Ids of uploaded files are left out. Raises InvalidInput and
    StoreUnavailable.
    """
    return tuple(sorted(asyncio.run(_fetch(path, endpoint, index, config)), key=lambda problem: problem.line or 0))


async def _fetch(path: Path, endpoint: str, index: LineIndex, config: MediaConfig) -> list[BatchProblem]:
    problems: list[BatchProblem] = []
    # So many are in memory: a line may hold its pictures itself.
    places = asyncio.Semaphore(_LINES_AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
        library = media.MediaLibrary(Path(folder), config, local=media.LocalFiles(path.parent, config))
        hold = library.open("check", "")

        async def get(line: _NamingLine) -> None:
            try:
                problems.extend(await _try_each(hold, line))
            finally:
                places.release()

        try:
            async with asyncio.TaskGroup() as group:
                for line in _read_naming_lines(path, endpoint, index):
                    await places.acquire()
                    group.create_task(get(line))
        finally:
            await hold.close()
            await library.close()
    return problems


async def _try_each(hold: "media.BatchMedia", line: _NamingLine) -> list[BatchProblem]:
    found = []
    for reference in line.references:
        if reference.source.startswith(_UPLOAD):
            continue
        try:
            await hold.get(reference)
        except (media.MediaRefused, media.MediaUnavailable) as failure:
            found.append(BatchProblem(failure.code, failure.message, line.number, reference.param))
            continue
        with hold.holding([reference]):
            pass  # it was here; its room is for the next one
    return found


def _read_naming_lines(path: Path, endpoint: str, index: LineIndex) -> Iterator[_NamingLine]:
    if not any(map(_may_name, set(index.shapes))):
        return
    try:
        with open_unpacked(path) as file:
            for number, line in enumerate(file, 1):
                found = _read(number, endpoint, line.removeprefix(_BYTE_ORDER_MARK).strip())
                if found is not None:
                    yield found
    except OSError as error:
        message = f"The input file {path} cannot be read: {error.strerror}."
        raise InvalidInput(message, param="input") from None


def _read(number: int, endpoint: str, line: bytes) -> _NamingLine | None:
    """None: it names nothing, or is no request."""
    parsed = parse_line(line, max(1, len(line)))
    if not isinstance(parsed, ParsedLine) or not _may_name(parsed.shape):
        return None
    body = line[parsed.body_start : parsed.body_start + parsed.body_length]
    try:
        references, problem = find_references(endpoint, body), None
    except ReferenceFault as fault:
        references, problem = (), fault.problem
    if problem is None and endpoint in AUDIO_ENDPOINTS:
        problem = find_audio_problem(body)
    if problem is not None:
        problem = BatchProblem(problem.code, problem.message, number, problem.param)
    return _NamingLine(number, references, problem)


def _may_name(shape: int) -> bool:
    return bool(shape & (HAS_MEDIA | HAS_FILE)) and read_fault(shape) is None
