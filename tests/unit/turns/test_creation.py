"""What a new batch's row says, and who looks at it before it is written."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from backfill.batch import Batch, File, FileStatus, Price
from backfill.catalogue import Catalogue
from backfill.config import CatalogueModelConfig, LimitsConfig
from backfill.errors import InvalidInput, NotFound
from backfill.index import MODELS_KEPT, Survey
from backfill.store import Metadata
from backfill.turns import Appraise, Attempt, BatchRequest, Turns
from tests.support.rows import RowsPlace

CHAT = "/v1/chat/completions"
SURVEY = Survey(lines=3, models=("m",))
FILE = File(
    id="file-1",
    owner="o",
    filename="a",
    purpose="batch-api",
    status=FileStatus.SEALED,
    created_at_ms=1,
    size_bytes=9,
    line_count=3,
    survey=msgspec.json.encode(SURVEY),
)


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    metadata = await Metadata.open(rows.make_driver())
    await metadata.add_file(FILE)
    yield metadata
    await metadata.close()


def open_turns(metadata: Metadata, *appraisals: Appraise) -> Turns:
    return Turns(metadata, LimitsConfig(), appraisals=appraisals)


async def test_what_appraisals_find_out_is_written_with_the_row_of_a_batch_and_of_its_retry(metadata: Metadata) -> None:
    async def set_price(batch: Batch, file: File, survey: Survey) -> Batch:
        assert (file, survey) == (FILE, SURVEY)
        return msgspec.structs.replace(batch, prices={"m": Price(input_per_million=5)})

    async def double(batch: Batch, _file: File, _survey: Survey) -> Batch:
        price = batch.prices["m"].input_per_million
        assert price is not None
        return msgspec.structs.replace(batch, prices={"m": Price(input_per_million=2 * price)})

    turns = open_turns(metadata, set_price, double)
    created = await turns.create(BatchRequest("o", CHAT, FILE.id, "2h", priority=4, key_id="key-1"))
    retried = await turns.retry(created, FILE, Attempt("again"), "key-2")
    for batch, key_id in ((created, "key-1"), (retried, "key-2")):
        assert await metadata.get_batch(batch.id) == batch
        assert batch.prices == {"m": Price(input_per_million=10)}
        assert (batch.priority, batch.completion_window, batch.key_id) == (4, "2h", key_id)
        assert batch.deadline_at_ms - batch.created_at_ms == 2 * 3_600_000
    assert retried.metadata == {"retry_of": created.id}


async def test_what_an_appraisal_refuses_leaves_no_row(metadata: Metadata) -> None:
    refused: list[str] = []

    async def refuse(batch: Batch, _file: File, _survey: Survey) -> Batch:
        refused.append(batch.id)
        message = "No room for it."
        raise InvalidInput(message)

    with pytest.raises(InvalidInput, match="No room"):
        await open_turns(metadata, refuse).create(BatchRequest("o", CHAT, FILE.id))
    [batch_id] = refused
    with pytest.raises(NotFound):
        await metadata.get_batch(batch_id)


async def test_a_batch_keeps_the_prices_of_when_it_was_made(metadata: Metadata) -> None:
    models = {
        "m": {"input_per_million": 1, "discount_percent": 50},
        "chosen": {"aliases": ["alias"], "output_per_million": 0},
        "unpriced": {"discount_percent": 50},
    }
    catalogue = Catalogue.load(
        models={name: CatalogueModelConfig.model_validate(said) for name, said in models.items()}
    )
    survey = Survey(lines=4, models=("m", "unpriced", "unheard-of"), lines_without_model=1)
    many = Survey(lines=100, models=("m", *(f"model-{number}" for number in range(MODELS_KEPT - 1))))
    for file_id, found in (("file-2", survey), ("file-3", many)):
        await metadata.add_file(msgspec.structs.replace(FILE, id=file_id, survey=msgspec.json.encode(found)))
    turns = open_turns(metadata, catalogue.note_prices)
    chosen = await turns.create(BatchRequest("o", CHAT, "file-2", model_id="alias"))
    assert (await metadata.get_batch(chosen.id)).prices == {
        "m": Price(input_per_million=1_000_000_000, discount_percent=50),
        "alias": Price(output_per_million=0),
    }
    of_many = await turns.create(BatchRequest("o", CHAT, "file-3"))
    assert {"m", "chosen", "alias", "Qwen/Qwen2.5-7B-Instruct-Turbo"} <= of_many.prices.keys()
