"""Every pair of a state and an event: either the table has the move, or it is a conflict."""

from itertools import product

import pytest

from backfill.batch import TRANSITIONS, Event, State, advance
from backfill.errors import Conflict


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_a_move_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(Conflict):
            advance(state, event)


@pytest.mark.parametrize("state", list(State))
def test_final_states_have_no_way_out_and_all_others_lead_to_one(state: State) -> None:
    ways = [target for (source, _), target in TRANSITIONS.items() if source is state]
    assert bool(ways) is not state.is_final
    reached, edge = {state}, {state}
    while edge:
        edge = {target for (source, _), target in TRANSITIONS.items() if source in edge} - reached
        reached |= edge
    assert any(each.is_final for each in reached)


def test_a_closing_state_only_closes_or_fails() -> None:
    for state in State:
        if state.is_closing:
            events = {event for (source, event) in TRANSITIONS if source is state}
            assert events == ({Event.CLOSE} if state is State.FAILING else {Event.CLOSE, Event.FAIL})
