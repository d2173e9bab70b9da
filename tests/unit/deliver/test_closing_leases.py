"""A batch is closed beside other processes once nobody can write anything any more that counts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backfill.batch import Batch, Outcome, State, Usage
from backfill.config import LimitsConfig
from backfill.deliver.closing_leases import ClosingLeases
from backfill.journal import Fold, Record, begin_segment
from backfill.journal.record import encode_record
from backfill.store import Leases, LocalBlobs, Metadata, SegmentFile
from backfill.store.faults import failing
from backfill.turns import Company, Duties, Turn, Turns
from tests.unit.turns.test_turns import Clock

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
LINES = 12
SLICES = 3
LEASE_MS = 30_000


class World:
    """A batch in slices, of which two holders have some, and whoever is to close it."""

    def __init__(self, metadata: Metadata, blobs: LocalBlobs) -> None:
        self.clock = Clock()
        self.metadata = metadata
        self.blobs = blobs
        self.turns, self.dead = self._join("living"), self._join("dead")
        self.closing = ClosingLeases(self.turns, blobs)

    def _join(self, name: str) -> Turns:
        duties = Duties(Leases(self.metadata.database, name, self.clock, LEASE_MS))
        return Turns(self.metadata, LimitsConfig(), self.clock, company=Company(duties, None, name))

    async def start(self) -> None:
        batch = Batch(
            id=BATCH,
            owner="o",
            endpoint="/v1/chat/completions",
            input_file_id="file",
            input_size_bytes=1,
            state=State.IN_PROGRESS,
            created_at_ms=1,
            deadline_at_ms=1 << 40,
        )
        await self.metadata.add_batch(batch)
        await self.metadata.change_batch(BATCH, values={"slices": SLICES}, new_slices=SLICES)

    def begin(self, turn: Turn) -> SegmentFile:
        return begin_segment(self.blobs, BATCH, turn.epoch, {}, slice_number=turn.slice_number)

    def fold(self) -> list[int]:
        fold = Fold(self.blobs, BATCH, LINES)
        fold.refresh()
        fold.close()
        return [line for line in range(LINES) if fold.outcomes[line]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    metadata = await Metadata.open(tmp_path / "backfill.db")
    yield World(metadata, LocalBlobs(tmp_path / "blobs"))
    await metadata.close()


def record(line: int) -> bytes:
    return encode_record(Record(line, Outcome.ANSWERED, 200, 1, Usage(1, 1), 1, 1, b"{}"))


async def test_slices_that_were_not_given_back_are_fenced_before_the_batch_is_gathered(world: World) -> None:
    await world.start()
    (mine,), (lost,), (unbegun,) = await world.turns.take(1), await world.dead.take(1), await world.dead.take(1)
    own, late = world.begin(mine), world.begin(lost)
    own.write(record(0))
    late.write(record(4))
    await world.turns.cancel(BATCH, "o")
    await world.turns.give_back(mine, drained=False)
    async with world.closing.holding(await world.turns.find_closable()) as held:
        assert held == []
    world.clock.now_ms += LEASE_MS + 1
    async with world.closing.holding(await world.turns.find_closable()) as held:
        assert [batch.id for batch in held] == [BATCH]
        gathered = world.fold()
        assert gathered == [0, 4]
        # They come back now.
        late.write(record(5))
        world.begin(unbegun).write(record(8))
        assert world.fold() == gathered
    (batch,) = await world.turns.find_closable()
    (again,) = await world.turns.take_closable([batch])
    assert (again.is_takeover, again.overdue) == (False, ())


async def test_a_slice_that_cannot_be_fenced_keeps_the_batch_from_being_gathered(world: World) -> None:
    await world.start()
    (lost,) = await world.dead.take(1)
    late = world.begin(lost)
    late.write(record(4))
    await world.turns.cancel(BATCH, "o")
    world.clock.now_ms += LEASE_MS + 1
    with failing("segment.create"):
        async with world.closing.holding(await world.turns.find_closable()) as held:
            assert held == []
    late.write(record(5))
    async with world.closing.holding(await world.turns.find_closable()) as held:
        assert [batch.id for batch in held] == [BATCH]
        late.write(record(6))
        assert world.fold() == [4, 5]
