"""The index as bytes: what is read back is what was written, and damage is noticed."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import StoreCorrupt
from backfill.index import PREFIX_LEVELS, IndexBuilder, LineFacts, LineIndex

U32 = st.integers(0, 2**32 - 1)
ROWS = st.lists(
    st.builds(
        LineFacts,
        st.integers(0, 2**40),
        st.integers(0, 2**31),
        st.one_of(st.none(), st.text(max_size=5)),
        U32,
        U32,
        st.tuples(*[U32] * PREFIX_LEVELS),
        st.integers(0, 2**64 - 1),
    ),
    max_size=20,
)
ROW = LineFacts(1, 2, "m", 3, 4, (5, 6, 0, 0, 0, 0, 0, 0), 7)


def build(rows: list[LineFacts]) -> LineIndex:
    builder = IndexBuilder()
    for number, row in enumerate(rows):
        builder.add(1000 * number, row, b'"%d"' % number)
    return builder.build()


@given(ROWS)
def test_what_is_read_back_is_what_was_written(rows: list[LineFacts]) -> None:
    index = LineIndex.decode(build(rows).encode())
    assert len(index) == len(rows)
    for line, row in enumerate(rows):
        assert (index.body_offsets[line], index.body_lengths[line]) == (1000 * line + row.body_start, row.body_length)
        assert index.model_names[index.models[line]] == row.model
        assert index.token_estimates[line] == row.token_estimate
        assert index.answer_tokens[line] == row.answer_tokens
        assert tuple(index.prefix_hashes[line * PREFIX_LEVELS : (line + 1) * PREFIX_LEVELS]) == row.prefix_hashes
        assert index.body_digests[line] == row.body_digest
        assert index.custom_id_json(line) == b'"%d"' % line


def test_an_index_of_before_the_prefix_hashes_is_read_as_one_that_shares_nothing() -> None:
    header = b'{"lines":2,"model_names":["m"],"custom_ids_size_bytes":6}'
    numbers = [(8, (10, 1010)), (4, (20, 21)), (4, (0, 0)), (4, (30, 31)), (4, (3, 6))]
    columns = b"".join(number.to_bytes(size, "little") for size, column in numbers for number in column)
    content = b"BFINDEX1" + len(header).to_bytes(4, "little") + header + columns + b'"a""b"'
    index = LineIndex.decode(content + zlib.crc32(content).to_bytes(4, "little"))
    assert (list(index.body_offsets), list(index.body_lengths)) == ([10, 1010], [20, 21])
    assert list(index.token_estimates) == [30, 31]
    assert (index.custom_id_json(0), index.custom_id_json(1)) == (b'"a"', b'"b"')
    assert list(index.answer_tokens) == [256, 256]
    assert list(index.prefix_hashes) == [0] * 2 * PREFIX_LEVELS
    assert list(index.body_digests) == [0, 0]
    assert index.encode()[:8] == b"BFINDEX2"


@pytest.mark.parametrize("position", [0, 7, 10, 30, -6, -1])
def test_damage_is_noticed(position: int) -> None:
    data = bytearray(build([ROW]).encode())
    data[position] ^= 1
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(bytes(data))


def test_a_cut_off_index_is_noticed() -> None:
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(build([ROW]).encode()[:-5])
