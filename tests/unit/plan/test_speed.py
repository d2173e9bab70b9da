"""How long tokens take many engines together, or the fastest one."""

import pytest

from backfill.plan import Fastest, Need, Team, TokenTime


@pytest.mark.parametrize("kind", [Team, Fastest])
def test_what_is_remembered_of_a_large_team_is_what_each_of_it_says(kind: type[Team]) -> None:
    members = [TokenTime(0.001 * (1 + number % 3), 0.01 * (1 + number % 5)) for number in range(20)]
    team = kind(members)
    for need in (Need(640, 640), Need(0, 5_000), Need(3 * 10**6, 10**6), Need()):
        each_s = [member.estimate_s(need) for member in members]
        exact_s = min(each_s) if kind is Fastest else 1 / sum(1 / max(one_s, 1e-9) for one_s in each_s)
        assert team.estimate_s(need) == pytest.approx(exact_s if any(need) else 0.0)
