"""What lines used is told by model and hour, each line once, and adds up to the counts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from backfill.batch import HOUR_MS, Batch, Counts, Outcome, Price, State, Usage, UsageRow
from backfill.index import PREFIX_LEVELS, UNKNOWN_SHAPE, IndexBuilder, LineFacts, LineIndex
from backfill.journal import Fold, LineModels, Record, SegmentWriter
from backfill.journal.ledger import Ledger
from backfill.journal.record import StoredRecord
from backfill.store import LocalBlobs

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
HOUR = 486_111


def make_record(line: int, *, minute: int = 0, outcome: Outcome = Outcome.ANSWERED) -> Record:
    return Record(line, outcome, 200, 1, Usage(10, 5, 1), HOUR * HOUR_MS + minute * 60_000, 12, b"{}")


def make_batch(model_id: str | None = None, prices: dict[str, Price] | None = None) -> Batch:
    return Batch(
        id=BATCH,
        owner="o",
        endpoint="/v1/chat/completions",
        input_file_id="f",
        input_size_bytes=1,
        state=State.IN_PROGRESS,
        created_at_ms=0,
        deadline_at_ms=1,
        model_id=model_id,
        prices=prices or {},
    )


def index_of(*models: str | None) -> LineIndex:
    builder = IndexBuilder()
    for number, model in enumerate(models):
        builder.add(number, LineFacts(0, 1, model, 1, 1, (0,) * PREFIX_LEVELS, 0, UNKNOWN_SHAPE), b'"x"')
    return builder.build()


async def test_usage_is_told_by_model_and_hour(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(0))
    writer.append(make_record(1, minute=59))
    writer.append(make_record(2, minute=60))
    writer.append(make_record(3, outcome=Outcome.REFUSED))
    writer.append(replace(make_record(4, minute=61), reused=True, usage=Usage(7, 3, 2)))
    await writer.close()
    # What a holder that was fenced out wrote on counts no second time.
    late = await SegmentWriter.create(blobs, BATCH, 2)
    late.append(replace(make_record(0, minute=300), usage=Usage(99, 99, 99)))
    late.append(make_record(5, minute=60))
    await late.close()

    models = LineModels.of_batch(make_batch("b"), index_of("a", "b", "a", "b", "a", None))
    fold = Fold(blobs, BATCH, 6, models)
    fold.refresh()
    assert fold.usage == (
        UsageRow("a", HOUR, 1, 0, Usage(10, 5, 1)),
        UsageRow("b", HOUR, 1, 1, Usage(20, 10, 2)),
        UsageRow("a", HOUR + 1, 2, 0, Usage(10, 5, 1), 1, Usage(7, 3, 2)),
        UsageRow("b", HOUR + 1, 1, 0, Usage(10, 5, 1)),
    )
    fold.close()


records = st.builds(
    StoredRecord,
    line=st.just(0),
    outcome=st.sampled_from(Outcome),
    status=st.just(200),
    prompt_tokens=st.integers(0, 2**32 - 1),
    completion_tokens=st.integers(0, 2**32 - 1),
    cached_tokens=st.integers(0, 2**32 - 1),
    finished_at_ms=st.integers(0, 400 * HOUR_MS),
    body_offset=st.just(0),
    body_length=st.just(0),
    reused=st.booleans(),
)


@given(st.lists(st.tuples(records, st.integers(0, 3)), max_size=40))
def test_rows_add_up_to_the_counts(finished: list[tuple[StoredRecord, int]]) -> None:
    # Two of the numbers stand for the same name.
    ledger = Ledger(LineModels([number for _, number in finished], ("a", "b", "a", "")))
    for line, (record, _) in enumerate(finished):
        ledger.add(replace(record, line=line))
    rows = ledger.rows
    assert len({(row.model, row.hour) for row in rows}) == len(rows)
    summed = Counts(
        len(finished),
        sum(row.answered for row in rows),
        sum(row.failed for row in rows),
        Usage(*(sum(row.usage[kind] for row in rows) for kind in range(3))),
        sum(row.reused for row in rows),
        Usage(*(sum(row.reused_usage[kind] for row in rows) for kind in range(3))),
    )
    assert ledger.count(len(finished)) == summed
    assert summed.done == len(finished)


def test_rows_stay_few_however_many_models_a_file_names() -> None:
    models = [f"m{number:03d}" for number in range(300)]
    known = LineModels.of_batch(make_batch(prices={"m299": Price(1)}), index_of(*models))
    names = [known.names[number] for number in known.numbers]
    assert len(set(names)) == 101
    # One whose price is known is told apart, wherever it stands.
    assert (names[0], names[98], names[99], names[298], names[299]) == ("m000", "m098", "*", "*", "m299")


@pytest.mark.parametrize(("model_id", "name"), [("b", "b"), (None, "")])
def test_a_line_that_names_no_model_is_for_that_of_the_batch(model_id: str | None, name: str) -> None:
    models = LineModels.of_batch(make_batch(model_id), index_of("a", None))
    assert [models.names[number] for number in models.numbers] == ["a", name]
