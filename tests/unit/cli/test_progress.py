import io
import json

import pytest
from rich.console import Console

from backfill.batch import Counts, Usage
from backfill.cli import console, progress
from backfill.cli.progress import ProgressDisplay


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def count(answered: int, failed: int = 0) -> Counts:
    return Counts(1000, answered, failed, Usage(10 * answered, 5 * answered))


def test_lines_are_told_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(as_json=False) as display:
        display.show(count(0), "engine e: starting")
        display.show(count(0), None)
        for _ in range(12):
            clock.now += 1
            display.show(count(round(clock.now - 100) * 10, 2))
        clock.now += 0.1
        display.show(count(998, 2), final=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "0 of 1,000  (engine e: starting)",
        "0 of 1,000",
        "52 of 1,000  2 failed  50 tokens/s  1 min 31 s left",
        "102 of 1,000  2 failed  50 tokens/s  1 min 28 s left",
        "1,000 of 1,000  2 failed  412 tokens/s",
    ]


def test_nothing_new_is_not_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(as_json=True) as display:
        for _ in range(100):
            display.show(count(3), "waiting")
            clock.now += 1
        display.show(count(3), "waiting", final=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert len(err.splitlines()) == 1


def test_events_carry_numbers(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(as_json=True) as display:
        display.show(count(0), "engine e: starting")
        clock.now += 0.5
        display.show(count(4))
        clock.now += 0.5
        display.show(count(7))
        display.show(count(10, 1), final=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["answered"] for event in events] == [0, 4, 10]
    assert events[0]["note"] == "engine e: starting"
    assert events[-1] == {
        "event": "progress",
        "total": 1000,
        "answered": 10,
        "failed": 1,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "note": None,
    }


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, color_system=None, highlight=False)
    monkeypatch.setattr(progress, "CONSOLE", terminal)
    with ProgressDisplay(as_json=False) as display:
        display.show(count(0), "engine e: starting")
        assert "engine e: starting" in screen.getvalue()
        clock.now += 1
        display.show(count(500, 1))
    assert "501 of 1,000  1 failed  2,500 tokens/s  1.0 s left" in screen.getvalue()
    assert "━" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (8.25, "8.2 s"),
        (59.9, "59.9 s"),
        (125, "2 min 5 s"),
        (3599.7, "1 h 0 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_have_words(seconds: float, words: str) -> None:
    assert console.name_duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (92_871_040, "92.9 MB"), (2 * 10**13, "20.0 TB")],
)
def test_sizes_have_units(size_bytes: int, words: str) -> None:
    assert console.name_size(size_bytes) == words
