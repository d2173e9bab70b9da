"""Who may call an object store that fails."""

from types import SimpleNamespace

import pytest

from backfill.store.objects.outage import Outage


def test_where_the_store_is_out_one_tries_at_a_time_until_it_answers_or_that_is_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr("backfill.store.objects.outage.time", SimpleNamespace(monotonic=lambda: clock.now_s))
    outage = Outage(10.0)

    def ask() -> list[bool]:
        return [outage.may_try(), outage.may_try()]

    def fail_for(seconds: float) -> None:
        for _ in range(2):
            outage.note_failure()
            clock.now_s += seconds / 2

    assert ask() == [True, True]
    fail_for(20.0)
    assert ask() == [True, False]
    # Nobody waits for one that was lost on the way, nor for one that has failed.
    clock.now_s += 10.0
    assert ask() == [True, False]
    outage.note_failure()
    assert ask() == [True, False]
    outage.note_success()
    assert ask() == [True, True]
    fail_for(20.0)
    clock.now_s += 60.0
    assert ask() == [True, True]
