"""The simulated installation: what it shows of itself when all is well, and that it shows what is not."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Batch, State
from backfill.plan import count_slices
from backfill.status import Urgency
from backfill.turns import Turn
from backfill.turns.choice import Choice
from bench.simulated.fleet import installation, worker
from bench.simulated.fleet.database import Costs, Kind
from bench.simulated.fleet.ledger import Ledger
from bench.simulated.fleet.load import Job, Load, draw_jobs
from bench.simulated.fleet.meter import Meter
from bench.simulated.fleet.offline import count_late, count_missed
from bench.simulated.fleet.run import Outcome, run_fleet
from bench.simulated.fleet.settings import FleetSettings

REPLICAS = 4
RATE = FleetSettings(REPLICAS).lines_per_s
LEASE_S = FleetSettings(REPLICAS).lease_ms / 1000


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Thirty batches of three owners, with a rush, while two workers die."""
    jobs = draw_jobs(Load(30, 300_000, 3, REPLICAS * RATE), seed=3)
    settings = FleetSettings(REPLICAS, kills=2, idle_s=30.0)
    return run_fleet(settings, jobs, Costs(), tmp_path_factory.mktemp("fleet"))


def test_all_batches_end_whoever_dies_and_nobody_has_what_another_one_has(outcome: Outcome) -> None:
    assert outcome.unended == 0
    assert outcome.violations == ()
    assert outcome.redone_lines > 0


def test_replicas_come_for_what_waits_and_go_when_nothing_does(outcome: Outcome) -> None:
    assert 1 < outcome.most_up <= REPLICAS
    assert outcome.history[-1][1] == 0
    assert outcome.over_s > outcome.ended_s


def test_replicas_have_lines_nearly_all_the_time_and_all_transactions_are_counted(outcome: Outcome) -> None:
    assert outcome.feeding_share > 0.95
    assert {kind for kind, count in outcome.writes.items() if count} == set(Kind)
    assert outcome.transactions_per_s > REPLICAS / 5


def make_rush(count: int) -> list[Job]:
    """Small batches that are pressed behind large ones that are not."""
    large = [Job(f"large-{number}", f"owner-{number}", 200_000, 0.0, 80_000.0) for number in range(6)]
    small = [Job(f"small-{number}", "owner-6", 12_000, 400.0 + number, 1_400.0 + number) for number in range(count)]
    return [*large, *small]


def test_a_rush_that_all_can_do_together_is_done_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, jobs = FleetSettings(REPLICAS, kills=0, idle_s=30.0), make_rush(12)
    found = run_fleet(settings, jobs, Costs(), _make(tmp_path / "sound"))
    assert (found.offline_missed_lines, found.missed_batches, found.missed_ratio) == (0, 0, 1.0)
    # Each worker by what it has alone.
    monkeypatch.setattr(installation, "find_urgency", lambda *_: Urgency())
    alone = run_fleet(settings, jobs, Costs(), _make(tmp_path / "alone"))
    assert alone.missed_batches > 3
    # Nobody at all.
    monkeypatch.setattr(Choice, "_is_pressed", lambda *_: False)
    monkeypatch.setattr(worker, "find_endangered", lambda *_: [])
    broken = run_fleet(settings, jobs, Costs(), _make(tmp_path / "broken"))
    assert broken.missed_lines > max(alone.missed_lines, 10_000)


def test_a_database_that_takes_long_keeps_replicas_from_their_lines(tmp_path: Path) -> None:
    settings = FleetSettings(REPLICAS, idle_s=30.0, lines_per_turn=200)
    slow = Costs(dict.fromkeys(Kind, 0.4), 0.4)
    found = run_fleet(settings, make_rush(0)[:1], slow, tmp_path)
    assert found.unended == 0
    assert found.feeding_share < 0.9


class Somebody:
    """Who has a turn until a time."""

    def __init__(self, until_s: float) -> None:
        self.may_hold_until_s = until_s

    def settle(self) -> None: ...

    def let_go(self, batch_id: str) -> None: ...


def take_twice(until_s: float) -> Sequence[str]:
    """What is found if a turn is taken that somebody has until then."""

    async def take() -> Sequence[str]:
        ledger = Ledger(Meter())
        ledger.add(Job("batch-1", "o", 100, 0.0, 1.0), count_slices(100, 2_000))
        batch = Batch(
            id="batch-1",
            owner="o",
            endpoint="",
            input_file_id="",
            input_size_bytes=0,
            state=State.IN_PROGRESS,
            created_at_ms=0,
            deadline_at_ms=0,
        )
        ledger.note_changed("batch-1", {"state": State.IN_PROGRESS})
        for holder in (Somebody(until_s), Somebody(float("inf"))):
            ledger.claim(Turn(batch, 1), holder)
        return ledger.violations

    return asyncio.run(take())


def test_what_is_taken_from_somebody_who_has_it_is_noted() -> None:
    assert take_twice(float("inf")) == ["batch-1 was taken while somebody had it"]
    assert take_twice(0.0) == []


@pytest.mark.parametrize(
    ("jobs", "capacity", "missed"),
    [
        ([Job("a", "o", 100, 0.0, 10.0)], [(0.0, 10.0)], (0.0, 0)),
        ([Job("a", "o", 100, 0.0, 9.0)], [(0.0, 10.0)], (10.0, 1)),
        ([Job("a", "o", 100, 5.0, 15.0)], [(0.0, 10.0), (10.0, 5.0)], (25.0, 1)),
        # The one that comes later goes first.
        ([Job("a", "o", 100, 0.0, 15.0), Job("b", "o", 50, 2.0, 7.0)], [(0.0, 10.0)], (0.0, 0)),
        ([Job("a", "o", 100, 0.0, 10.0), Job("b", "o", 50, 2.0, 7.0)], [(0.0, 10.0)], (50.0, 1)),
        ([Job("a", "o", 100, 0.0, 10.0)], [], (100.0, 1)),
    ],
)
def test_the_best_order_is_known(
    jobs: list[Job], capacity: list[tuple[float, float]], missed: tuple[float, int]
) -> None:
    assert count_missed(jobs, capacity) == pytest.approx(missed)


@pytest.mark.parametrize(
    ("jobs", "late"),
    [
        ([Job("a", "o", 100, 0.0, 10.0)], 0),
        ([Job("a", "o", 101, 0.0, 10.0)], 1),
        # One large one for two small ones, whenever it is due.
        ([Job("a", "o", 90, 0.0, 10.0), Job("b", "o", 50, 0.0, 10.5), Job("c", "o", 50, 0.0, 10.5)], 1),
        ([Job("a", "o", 50, 0.0, 10.0), Job("b", "o", 50, 0.0, 10.1), Job("c", "o", 90, 0.0, 10.2)], 1),
        # What is due later is interrupted, and what was done before a pause is not to blame.
        ([Job("a", "o", 500, 0.0, 60.0), Job("b", "o", 100, 5.0, 15.0)], 0),
        ([Job("a", "o", 500, 0.0, 60.0), Job("b", "o", 101, 70.0, 80.0), Job("c", "o", 20, 70.0, 79.0)], 1),
    ],
)
def test_an_order_that_gives_up_few_batches_is_known(jobs: list[Job], late: int) -> None:
    assert count_late(jobs, 10.0) == late


LINES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=6)


@given(LINES)
def test_no_order_gets_more_lines_done(lines: list[tuple[int, int]]) -> None:
    """Each takes a second; how many of them can be matched with seconds of their own is found by trying."""
    taken: dict[int, int] = {}

    def place(number: int, tried: set[int]) -> bool:
        comes, window = lines[number]
        for second in range(comes, comes + window):
            if second not in tried:
                tried.add(second)
                if second not in taken or place(taken[second], tried):
                    taken[second] = number
                    return True
        return False

    done = sum(place(number, set()) for number in range(len(lines)))
    jobs = [
        Job(str(number), "o", 1, float(comes), float(comes + window)) for number, (comes, window) in enumerate(lines)
    ]
    assert count_missed(jobs, [(0.0, 1.0)])[0] == pytest.approx(len(lines) - done)


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder
