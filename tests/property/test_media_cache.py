"""Whatever is asked for, held, removed and started anew in whatever order: the cache keeps its promises."""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.media import BatchMedia, MediaLibrary
from backfill.media_file import MediaFile, MediaReference
from tests.support.media import configure, data_url, list_files, picture, png

BATCHES = ("one", "two")
PICTURES = {picture(data_url(data)): data for data in (png(padding=100 * number) for number in range(1, 6))}
REFERENCES = list(PICTURES)
SIZES = [len(data) for data in PICTURES.values()]
LIMIT = SIZES[-1] + SIZES[0]

which = st.sampled_from(BATCHES)
STEPS = st.one_of(
    st.tuples(st.just("get"), which, st.sampled_from(REFERENCES)),
    st.tuples(st.just("find"), which, st.sampled_from(REFERENCES)),
    st.tuples(st.just("hold"), which, st.lists(st.sampled_from(REFERENCES), max_size=3)),
    st.tuples(st.just("release"), which, st.none()),
    st.tuples(st.just("close"), which, st.none()),
    st.tuples(st.just("remove"), which, st.none()),
    st.tuples(st.just("restart"), which, st.none()),
)


class House:
    """A library, a hold of each batch, and what is held through each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, ExitStack] = {batch: ExitStack() for batch in BATCHES}
        self.files: dict[str, list[tuple[MediaReference, MediaFile]]] = {batch: [] for batch in BATCHES}
        self.awaited: dict[str, set[MediaReference]] = {batch: set() for batch in BATCHES}
        """What was got and not held since."""
        self.open()

    def open(self) -> None:
        self.library = MediaLibrary(self.folder, configure(cache_size_bytes=LIMIT))
        self.media: dict[str, BatchMedia] = {batch: self.library.open(batch, "owner") for batch in BATCHES}

    async def step(self, name: str, batch: str, what: object) -> None:
        media = self.media[batch]
        if name == "get" and isinstance(what, MediaReference):
            file = await media.get(what)
            self.awaited[batch].add(what)
            assert file.path.read_bytes() == PICTURES[what]
        elif name == "find" and isinstance(what, MediaReference):
            found = media.find(what)
            assert found is None or found.path.read_bytes() == PICTURES[what]
        elif name == "hold" and isinstance(what, list):
            files = self.held[batch].enter_context(media.holding(what))
            self.files[batch] += zip(what, files or [], strict=files is not None)
            self.awaited[batch] -= set(what if files is not None else [])
        elif name == "release":
            self.release(batch)
        else:
            await self.end(name, batch)

    def release(self, batch: str) -> None:
        self.files[batch].clear()
        self.held[batch].close()

    async def end(self, name: str, batch: str) -> None:
        """Nobody sends what he named any more, and then a hold, a batch or the process ends."""
        for one in BATCHES if name == "restart" else (batch,):
            self.release(one)
            await self.media[one].close()
            self.awaited[one].clear()
        if name == "remove":
            await self.library.remove(batch)
            assert not any(path.parent.name == batch for path in list_files(self.folder))
        if name == "restart":
            await self.library.close()
            self.open()
            await self.library.sweep(BATCHES)
        self.media[batch] = self.library.open(batch, "owner")

    async def check(self) -> None:
        for held in self.files.values():
            for reference, file in held:
                assert file.path.read_bytes() == PICTURES[reference], "what is held went"
        for batch, awaited in self.awaited.items():
            for reference in awaited:
                assert self.media[batch].find(reference) is not None, "what is awaited went"
        await self.library.cache.close()
        assert self.library.cache.size_bytes == sum(path.stat().st_size for path in list_files(self.folder))


async def walk(folder: Path, steps: list[tuple[str, str, object]]) -> None:
    house = House(folder)
    for step in steps:
        await house.step(*step)
        await house.check()
    for batch in BATCHES:
        await house.end("close", batch)
    await house.check()
    assert house.library.cache.size_bytes <= LIMIT
    await house.library.close()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_books_are_right_and_what_is_held_stays(steps: list[tuple[str, str, object]]) -> None:
    with tempfile.TemporaryDirectory(prefix="media-") as folder:
        asyncio.run(walk(Path(folder), steps))
