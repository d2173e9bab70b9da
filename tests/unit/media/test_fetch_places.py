import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.media.fetch_places import FetchPlaces


class Fetches:
    """Fetches that run until they are told to end."""

    def __init__(self, places: FetchPlaces) -> None:
        self._places = places
        self._ends: dict[asyncio.Task[None], asyncio.Event] = {}
        self.running: list[tuple[str, str]] = []
        self.order: list[str] = []

    async def begin(self, host: str, owner: str, name: str = "") -> "asyncio.Task[None]":
        task = asyncio.create_task(self._run(host, owner, name))
        self._ends[task] = asyncio.Event()
        await self.settle()
        return task

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _run(self, host: str, owner: str, name: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with self._places.place(host, owner):
            self.running.append((host, owner))
            self.order.append(name)
            try:
                await self._ends[task].wait()
            finally:
                self.running.remove((host, owner))

    async def end(self, task: "asyncio.Task[None]") -> None:
        self._ends[task].set()
        await self.settle()

    async def cancel(self, task: "asyncio.Task[None]") -> None:
        task.cancel()
        await self.settle()

    async def end_all(self) -> None:
        for end in self._ends.values():
            end.set()
        await asyncio.gather(*self._ends, return_exceptions=True)


async def test_no_owner_takes_all_places() -> None:
    fetches = Fetches(FetchPlaces(8, 8))
    for number in range(20):
        await fetches.begin(f"host-{number}", "greedy")
    assert len(fetches.running) == 6
    await fetches.begin("host", "other")
    await fetches.begin("host", "third")
    assert fetches.running[6:] == [("host", "other"), ("host", "third")]
    await fetches.end_all()


async def test_the_owner_with_the_fewest_goes_first() -> None:
    fetches = Fetches(FetchPlaces(4, 4))
    greedy = [await fetches.begin("host", "greedy", f"greedy {number}") for number in range(5)]
    third = await fetches.begin("host", "third", "third")
    await fetches.begin("host", "other", "other 0")
    await fetches.begin("host", "other", "other 1")
    assert fetches.order == ["greedy 0", "greedy 1", "greedy 2", "third"]
    await fetches.end(third)
    await fetches.end(greedy[0])
    assert fetches.order[4:] == ["other 0", "other 1"]
    await fetches.end(greedy[1])
    assert fetches.order[6:] == ["greedy 3"]
    await fetches.end_all()


async def test_who_waits_for_a_host_takes_no_place() -> None:
    fetches = Fetches(FetchPlaces(4, 2))
    slow = [await fetches.begin("slow", f"owner-{number}") for number in range(10)]
    await fetches.begin("quick", "owner-1")
    assert fetches.running == [("slow", "owner-0"), ("slow", "owner-1"), ("quick", "owner-1")]
    await fetches.cancel(slow[5])
    await fetches.cancel(slow[0])
    assert fetches.running == [("slow", "owner-1"), ("quick", "owner-1"), ("slow", "owner-2")]
    await fetches.end_all()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from("abc"), st.sampled_from("xyz")),
        st.tuples(st.sampled_from(["end", "cancel"]), st.integers(0, 30), st.none()),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS, st.integers(1, 6), st.integers(1, 3))
def test_every_limit_holds_and_no_place_is_lost(
    steps: list[tuple[str, object, object]], places: int, per_host: int
) -> None:
    async def walk() -> None:
        limits = FetchPlaces(places, per_host)
        fetches, tasks = Fetches(limits), list[asyncio.Task[None]]()
        for name, one, other in steps:
            if name == "begin":
                tasks.append(await fetches.begin(str(one), str(other)))
            elif tasks and isinstance(one, int):
                task = tasks[one % len(tasks)]
                await (fetches.end if name == "end" else fetches.cancel)(task)
            hosts, owners = [host for host, _ in fetches.running], [owner for _, owner in fetches.running]
            assert len(fetches.running) <= places
            assert all(hosts.count(host) <= per_host for host in hosts)
            assert all(owners.count(owner) <= max(1, places * 3 // 4) for owner in owners)
        await fetches.end_all()
        # All places are there again, and nobody is remembered.
        tasks = [await fetches.begin(f"host-{number}", f"owner-{number}") for number in range(places + 1)]
        assert len(fetches.running) == places
        await fetches.end_all()
        assert vars(limits)["_hosts"] == vars(limits)["_owners"] == {}

    asyncio.run(walk())
