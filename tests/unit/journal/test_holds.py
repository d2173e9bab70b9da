"""A journal goes when nobody reads it; who comes while it goes finds none."""

import asyncio

import pytest

from backfill.journal import JournalHolds


async def test_a_journal_that_is_read_stays_until_the_last_reader_is_through() -> None:
    holds = JournalHolds()
    first, second = await holds.take("a"), await holds.take("a")
    first.release()
    first.release()
    with holds.removing("a") as may_go:
        assert not may_go
    with holds.removing("b") as may_go:
        assert may_go
    second.release()
    with holds.removing("a") as may_go:
        assert may_go


async def test_who_comes_while_it_goes_waits_and_nobody_removes_it_twice() -> None:
    holds = JournalHolds()
    with holds.removing("a") as may_go:
        assert may_go
        with holds.removing("a") as may_go_too:
            assert not may_go_too
        taking = asyncio.create_task(holds.take("a"))
        await asyncio.sleep(0)
        assert not taking.done()
    hold = await taking
    with holds.removing("a") as may_go:
        assert not may_go
    hold.release()


async def test_a_block_that_fails_lets_the_journal_go() -> None:
    holds = JournalHolds()
    with pytest.raises(asyncio.CancelledError):
        async with holds.reading("a"):
            raise asyncio.CancelledError
    with holds.removing("a") as may_go:
        assert may_go
