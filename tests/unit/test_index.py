"""The index as bytes: what is read back is what was written, and damage is noticed."""

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import ENDPOINTS
from backfill.errors import StoreCorrupt
from backfill.index import OTHER_TARGET, PREFIX_LEVELS, UNKNOWN_SHAPE, IndexBuilder, LineFacts, LineIndex
from backfill.wire import HAS_FILE, HAS_MEDIA, Fault, find_request_problem, read_fault

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
        st.integers(0, 255),
    ),
    max_size=20,
)
ROW = LineFacts(1, 2, "m", 3, 4, (5, 6, 0, 0, 0, 0, 0, 0), 7, 0x21)


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
        assert index.shapes[line] == row.shape
        assert index.custom_id_json(line) == b'"%d"' % line


FIRST_COLUMNS = [(8, (10, 1010)), (4, (20, 21)), (4, (0, 0)), (4, (30, 31)), (4, (3, 6))]
SECOND_COLUMNS = [*FIRST_COLUMNS, (4, (7, 8)), (4, tuple(range(2 * PREFIX_LEVELS))), (8, (5, 6))]


def store(magic: bytes, numbers: Sequence[tuple[int, tuple[int, ...]]]) -> bytes:
    """An index of two lines as an earlier release wrote it."""
    header = b'{"lines":2,"model_names":["m"],"custom_ids_size_bytes":6}'
    columns = b"".join(number.to_bytes(size, "little") for size, column in numbers for number in column)
    content = magic + len(header).to_bytes(4, "little") + header + columns + b'"a""b"'
    return content + zlib.crc32(content).to_bytes(4, "little")


def test_an_index_of_before_the_prefix_hashes_is_read_as_one_that_shares_nothing() -> None:
    index = LineIndex.decode(store(b"BFINDEX1", FIRST_COLUMNS))
    assert (list(index.body_offsets), list(index.body_lengths)) == ([10, 1010], [20, 21])
    assert list(index.token_estimates) == [30, 31]
    assert (index.custom_id_json(0), index.custom_id_json(1)) == (b'"a"', b'"b"')
    assert list(index.answer_tokens) == [256, 256]
    assert list(index.prefix_hashes) == [0] * 2 * PREFIX_LEVELS
    assert list(index.body_digests) == [0, 0]
    assert index.encode()[:8] == b"BFINDEX5"


@pytest.mark.parametrize(("magic", "columns"), [(b"BFINDEX1", FIRST_COLUMNS), (b"BFINDEX2", SECOND_COLUMNS)])
def test_an_index_of_before_the_shapes_holds_nothing_against_its_lines(
    magic: bytes, columns: Sequence[tuple[int, tuple[int, ...]]]
) -> None:
    index = LineIndex.decode(store(magic, columns))
    assert list(index.shapes) == [UNKNOWN_SHAPE] * 2
    assert not any(find_request_problem(UNKNOWN_SHAPE, endpoint, has_model=True) for endpoint in ENDPOINTS)
    assert (index.custom_id_json(0), index.custom_id_json(1)) == (b'"a"', b'"b"')
    assert list(index.answer_tokens) == ([7, 8] if magic == b"BFINDEX2" else [256, 256])


def test_a_shape_of_before_pictures_and_clips_may_have_whatever_was_not_noted() -> None:
    stored = {0b001: ("/v1/chat/completions", None), 0b010: ("/v1/completions", None), 0x10: (None, Fault.STREAM)}
    for old, (fits, fault) in stored.items():
        index = LineIndex.decode(store(b"BFINDEX3", [*SECOND_COLUMNS, (1, (old, 0x60))]))
        shape, unreadable = index.shapes
        assert (read_fault(shape), read_fault(unreadable)) == (fault, Fault.UNREADABLE)
        if fits is not None:
            taken = [each for each in ENDPOINTS[:4] if find_request_problem(shape, each, has_model=True) is None]
            assert taken == [fits]
            assert shape & HAS_MEDIA
            assert shape & HAS_FILE
        assert LineIndex.decode(index.encode()).shapes == index.shapes


def test_an_index_of_before_invalid_lines_were_in_it_says_so() -> None:
    index = LineIndex.decode(store(b"BFINDEX4", [*SECOND_COLUMNS, (1, (0x01, 0x81))]))
    assert not index.has_every_line
    assert list(index.shapes) == [0x01, 0x81]
    assert [index.target_names[number] for number in index.targets] == [OTHER_TARGET] * 2


def test_the_targets_of_lines_are_read_back() -> None:
    builder = IndexBuilder()
    targets: list[tuple[str | None, str | None]] = [("POST", "/v1/a"), (None, None), ("POST", "/v1/a"), (None, "b")]
    for number, target in enumerate(targets):
        builder.add(1000 * number, ROW, b'"%d"' % number, target)
    index = LineIndex.decode(builder.build().encode())
    assert [index.target_names[number] for number in index.targets] == targets
    assert index.has_every_line


@pytest.mark.parametrize("position", [0, 7, 10, 30, -6, -1])
def test_damage_is_noticed(position: int) -> None:
    data = bytearray(build([ROW]).encode())
    data[position] ^= 1
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(bytes(data))


def test_a_cut_off_index_is_noticed() -> None:
    with pytest.raises(StoreCorrupt):
        LineIndex.decode(build([ROW]).encode()[:-5])
