"""The index as bytes: what is read back is what was written, and damage is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import StoreCorrupt
from backfill.index import IndexBuilder, LineIndex

ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**40), st.integers(0, 2**31), st.one_of(st.none(), st.text(max_size=5)), st.integers(0, 2**33)
    ),
    max_size=20,
)


def build(rows: list[tuple[int, int, str | None, int]]) -> LineIndex:
    builder = IndexBuilder()
    for number, (offset, length, model, estimate) in enumerate(rows):
        builder.add(offset, length, model, estimate, b'"%d"' % number)
    return builder.build()


@given(ROWS)
def test_what_is_read_back_is_what_was_written(rows: list[tuple[int, int, str | None, int]]) -> None:
    index = LineIndex.decode(build(rows).encode())
    assert len(index) == len(rows)
    for line, (offset, length, model, estimate) in enumerate(rows):
        assert (index.body_offsets[line], index.body_lengths[line]) == (offset, length)
        assert index.model_names[index.models[line]] == model
        assert index.token_estimates[line] == min(estimate, 2**32 - 1)
        assert index.custom_id_json(line) == b'"%d"' % line


@pytest.mark.parametrize("position", [0, 10, 30, -6, -1])
def test_damage_is_noticed(position: int) -> None:
    data = bytearray(build([(1, 2, "m", 3)]).encode())
    data[position] ^= 1
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(bytes(data))


def test_a_cut_off_index_is_noticed() -> None:
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(build([(1, 2, "m", 3)]).encode()[:-5])
