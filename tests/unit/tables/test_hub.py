"""Datasets of the hub, with a stand-in for the package that fetches them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from backfill.errors import InvalidInput
from backfill.tables import AnswerReader, open_table

ROWS = 2500
MODULE = "backfill.tables.hub_table"


class Dataset:
    """What of the package's class is used."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.column_names = table.column_names
        self.num_rows = table.num_rows
        self._fingerprint = "abc"
        self.features = self

    @property
    def arrow_schema(self) -> pa.Schema:
        return self.table.schema

    def with_format(self, kind: str) -> "Dataset":
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        return self.table.slice(rows.start, rows.stop - rows.start)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    package = ModuleType("datasets")

    def load_dataset(path: str, configuration: str | None, split: str) -> Dataset:
        calls.append((path, configuration, split))
        if path == "nobody/nothing":
            raise ConnectionError("Couldn't reach\n'nobody/nothing' on the Hub")
        return Dataset(pa.table({"n": list(range(ROWS))}))

    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield calls
    sys.modules.pop(MODULE, None)


def test_a_dataset_is_a_table_and_its_answers_are_parquet(asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
    table = open_table("hf://owner/name/small@validation")
    assert asked == [("owner/name", "small", "validation")]
    assert (list(table.columns), table.rows, table.fingerprint()) == (["n"], ROWS, "abc")
    assert [row[0] for block in table.read(1200) for row in block.take(["n"])] == list(range(1200, ROWS))
    with (tmp_path / "out.parquet").open("wb") as file:
        writer = table.begin(file, AnswerReader().columns)
        for block in table.read():
            writer.write(block, [["x", None]] * len(block))
        writer.finish()
    assert parquet.read_table(tmp_path / "out.parquet").column("n").to_pylist() == list(range(ROWS))


@pytest.mark.parametrize(
    ("name", "call"), [("hf://name", ("name", None, "train")), ("hf://o/n@train[:10%]", ("o/n", None, "train[:10%]"))]
)
def test_configuration_and_split_may_be_left_out(
    asked: list[tuple[Any, ...]], name: str, call: tuple[Any, ...]
) -> None:
    open_table(name)
    assert asked == [call]


def test_a_dataset_that_is_not_to_be_had_says_why_in_one_line(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(InvalidInput, match=r"^hf://nobody/nothing is not to be had: Couldn't reach 'nobody/nothing'"):
        open_table("hf://nobody/nothing")
    with pytest.raises(InvalidInput, match="names no dataset"):
        open_table("hf://a b")
    assert len(asked) == 1


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(InvalidInput, match="pip install datasets pyarrow"):
        open_table("hf://owner/name")


def test_without_pyarrow_csv_still_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("arrow", "parquet_table"):
        monkeypatch.delitem(sys.modules, f"backfill.tables.{name}", raising=False)
    (tmp_path / "t.csv").write_text("a\n1\n")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert open_table(str(tmp_path / "t.csv")).rows == 1
    with pytest.raises(InvalidInput, match=r"pip install 'backfill\[data\]'"):
        open_table(str(tmp_path / "t.parquet"))
