"""Enqueued tokens, whatever happens to batches: always what rows and journals add up to, and never above the limit."""

import asyncio
import errno
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backfill.accounts import Quota, QuotaSources
from backfill.batch import Batch, Counts, File, FileStatus, Reservation, Standing, State, UsageRow
from backfill.errors import InvalidInput, LimitReached, StoreUnavailable
from backfill.store import Metadata, database

LIMIT = 1000
ALIASES = {"alias": "a"}
MODELS = ["a", "alias", "b"]
OWNERS = ["one", "two"]
FILE = File(id="file", owner="one", filename="f.jsonl", purpose="batch", status=FileStatus.SEALED, created_at_ms=1)
SENT = (State.VALIDATING, State.IN_PROGRESS)
SMALL = st.builds(Reservation, st.integers(1, 9), st.integers(0, 400), st.integers(0, 400))
FIRST_ENDS = ("move", 0, State.CANCELLED)
STEPS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(OWNERS), st.dictionaries(st.sampled_from(MODELS), SMALL, min_size=1)),
    st.tuples(st.just("work"), st.integers(0, 30), st.integers(1, 5)),
    st.tuples(st.just("move"), st.integers(0, 30), st.sampled_from([state for state in State if state not in SENT])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("fail"), st.sampled_from(["metadata.before_commit", "metadata.committed"])),
)


@dataclass
class Model:
    """What should be, counted by hand."""

    reserved: dict[str, dict[str, Reservation]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    done: dict[str, Counter[str]] = field(default_factory=dict)
    fault: str | None = None
    """Where the next write fails."""

    def enqueued(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for batch_id, reserved in self.reserved.items():
            for name, each in reserved.items():
                left = each.lines - self.done[batch_id][name]
                tokens = each.prompt_tokens + each.completion_tokens
                # Rounded up, so that what is left is never forgotten.
                sums[ALIASES.get(name, name)] += (tokens * left + each.lines - 1) // each.lines
        return +sums


@contextmanager
def failing(point: str | None) -> Iterator[None]:
    """The database's disk fails at this point, once the row is there or before."""

    def fail(reached: str) -> None:
        if reached == point:
            raise OSError(errno.EIO, "the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "reach", fail)
        yield


class House:
    """Rows in a real database; journals are what the model says."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder = folder
        self.model = model

    async def open(self) -> None:
        self.metadata = await Metadata.open(self.folder / "backfill.db")
        if "file" not in await self.metadata.list_file_ids():
            await self.metadata.add_file(FILE)
        self.sources = QuotaSources(self._measure, self._find_key_limit, lambda name: ALIASES.get(name, name))
        self.quota = Quota(self.metadata, LIMIT, self.sources, progress_age_max_s=0)
        await self.quota.begin()

    async def _measure(self, batch: Batch) -> Standing:
        done = self.model.done[batch.id]
        rows = tuple(UsageRow(name, 0, answered=lines) for name, lines in done.items())
        return Standing(Counts(total=batch.counts.total, answered=done.total()), rows)

    async def _find_key_limit(self, key_id: str) -> int | None:
        return LIMIT // 2 if key_id == "half" else None

    async def create(self, owner: str, reserved: dict[str, Reservation]) -> None:
        number = len(self.model.owners)
        lines = sum(each.lines for each in reserved.values())
        batch = Batch(
            id=f"batch-{number}",
            owner=owner,
            endpoint="/v1/chat/completions",
            input_file_id="file",
            input_size_bytes=1,
            state=State.VALIDATING,
            created_at_ms=number,
            deadline_at_ms=10_000 + number,
            counts=Counts(total=lines),
            reserved=reserved,
            key_id="half" if owner == "two" else None,
        )
        asked: Counter[str] = Counter()
        for name, each in reserved.items():
            asked[ALIASES.get(name, name)] += each.prompt_tokens + each.completion_tokens
        taken = self.model.enqueued()
        own = Model(
            {key: value for key, value in self.model.reserved.items() if self.model.owners[key] == owner},
            done=self.model.done,
        ).enqueued()
        most = LIMIT // 2 if owner == "two" else LIMIT
        never = any(tokens > most for tokens in asked.values())
        fits = all(taken[name] + tokens <= LIMIT and own[name] + tokens <= most for name, tokens in asked.items())
        fault, self.model.fault = self.model.fault, None
        self.model.owners[batch.id] = owner
        try:
            with failing(fault):
                await self.quota.add_batch(batch)
        except StoreUnavailable:
            # A write that failed was made or not; whichever, what is told is what the rows say.
            if fault == "metadata.before_commit":
                return
            if not await self.metadata.list_batch_ids() >= {batch.id}:
                return
            assert fits
            self.model.reserved[batch.id] = reserved
            self.model.done[batch.id] = Counter()
        except InvalidInput:
            assert never
        except LimitReached:
            assert not never
            assert not fits
        else:
            assert fits
            self.model.reserved[batch.id] = reserved
            self.model.done[batch.id] = Counter()

    async def work(self, number: int, lines: int) -> None:
        """A turn is taken, and some lines are done."""
        batch_id = f"batch-{number}"
        if batch_id not in self.model.reserved:
            return
        await self.metadata.change_batch(batch_id, values={"state": State.IN_PROGRESS, "epoch": 1})
        done = self.model.done[batch_id]
        for name, each in self.model.reserved[batch_id].items():
            done[name] = min(each.lines, done[name] + lines)

    async def move(self, number: int, state: State) -> None:
        """No line is sent any more."""
        batch_id = f"batch-{number}"
        fault, self.model.fault = self.model.fault, None
        try:
            with failing(fault):
                await self.metadata.change_batch(batch_id, values={"state": state})
        except StoreUnavailable:
            if fault == "metadata.before_commit":
                return
        self.model.reserved.pop(batch_id, None)

    async def fail(self, point: str) -> None:
        """The next write of a batch will."""
        self.model.fault = point

    async def fold(self) -> Counter[str]:
        """By rows and journals alone."""
        return await Quota(self.metadata, LIMIT, self.sources, progress_age_max_s=0).measure()


async def carry_out(steps: list[tuple[object, ...]], folder: Path) -> None:
    house = House(folder, Model())
    await house.open()
    try:
        for name, *arguments in steps:
            if name == "restart":
                await house.metadata.close()
                await house.open()
            else:
                await getattr(house, str(name))(*arguments)
            told = await house.quota.measure()
            assert told == await house.fold()
            assert told == house.model.enqueued()
        house.model.fault = None
        for batch_id in list(house.model.reserved):
            await house.move(int(batch_id.removeprefix("batch-")), State.COMPLETED)
        assert await house.quota.measure() == Counter()
    finally:
        await house.metadata.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=14))
@example([("fail", "metadata.before_commit"), ("create", "one", {"a": Reservation(1, 10, 10)})])
@example([("create", "one", {"a": Reservation(1, 10, 10)}), ("fail", "metadata.before_commit"), FIRST_ENDS])
@example([("create", "one", {"a": Reservation(1, 10, 10)}), ("fail", "metadata.committed"), FIRST_ENDS])
def test_enqueued_is_what_rows_and_journals_add_up_to(steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(carry_out(steps, Path(folder)))


@given(SMALL)
def test_what_is_left_shrinks_to_nothing(reservation: Reservation) -> None:
    left = [reservation.left(done) for done in range(reservation.lines + 1)]
    assert left[0] == reservation.prompt_tokens + reservation.completion_tokens
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
