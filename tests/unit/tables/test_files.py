"""What of files is read, refused and written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from backfill.errors import InvalidInput
from backfill.tables import AnswerReader, Table, check_known, check_new, check_same_form, open_table


def read_all(table: Table, columns: Sequence[str] | None = None, start: int = 0) -> list[tuple[Any, ...]]:
    wanted = table.columns if columns is None else columns
    return [tuple(row) for block in table.read(start) for row in block.take(wanted)]


def write_beside(table: Table, path: Path) -> None:
    """The table with "answer" counting up and no error."""
    with path.open("wb") as file:
        writer = table.begin(file, AnswerReader().columns)
        number = 0
        for block in table.read():
            writer.write(block, [[str(number + at), None] for at in range(len(block))])
            number += len(block)
        writer.finish()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        (b"a,b\n1,2\n", ","),
        (b"a;b\n1;2\n", ";"),
        (b"a\tb\n1\t2\n", "\t"),
        (b"a;b\n1,5;2,5\n", ";"),
        (b'"a;x",b\n1,2\n', ","),
        (b"a\n1;2\n", ","),
        (b"a\n", ","),
    ],
)
def test_the_delimiter_is_found_and_told(tmp_path: Path, data: bytes, delimiter: str) -> None:
    table = open_table(write(tmp_path / "t.csv", data))
    assert getattr(table, "delimiter", None) == delimiter
    assert (table.note is None) == (delimiter == ",")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_goes_out_as_it_came_in(tmp_path: Path, end: bytes, mark: bytes) -> None:
    rows = [b'text;"odd ""name"";x"', b"=1+1;", b'"a;b";"1\n2"', b"+49 30;-"]
    table = open_table(write(tmp_path / "t.csv", mark + end.join(rows) + end))
    assert list(table.columns) == ["text", 'odd "name";x']
    assert read_all(table) == [("=1+1", ""), ("a;b", "1\n2"), ("+49 30", "-")]
    write_beside(table, tmp_path / "out.csv")
    wanted = [rows[0] + b";answer;_error", rows[1] + b";0;", rows[2] + b";1;", rows[3] + b";2;"]
    assert (tmp_path / "out.csv").read_bytes() == mark + end.join(wanted) + end


def test_a_cell_of_megabytes_is_a_cell(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.csv", b"a,b\n" + b"x" * 3_000_000 + b",1\n" + b"y" * 3_000_000 + b",2\n"))
    assert [len(block) for block in table.read()] == [2]
    assert [len(row[0]) for row in read_all(table)] == [3_000_000] * 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n1,2,3\n", ":3: the row has 3 cells where the header has 2"),
        (b"a,b\n1\n", ":2: the row has 1 cell where"),
        (b'a,b\n1,"2\n', "a quoted cell is never closed"),
        (b'a,b\n"1"x,2\n', ":2: the row is not CSV: something follows the closing quote"),
        (b"a,b\n1,\xff\n", "is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_what_is_no_csv_is_refused_with_its_line(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_table(write(tmp_path / "t.csv", data))
    assert told in caught.value.message


def test_json_lines_are_passed_on_byte_by_byte(tmp_path: Path) -> None:
    lines = [
        b'{ "a": 1.10, "big": 123456789012345678901234567890 }',
        b'{"b":[1,{"c":null}],"a":"\\u00e4"}',
        b"{}",
    ]
    table = open_table(write(tmp_path / "t.jsonl", b"\xef\xbb\xbf" + b"\n\n".join(lines) + b"\n"))
    assert (list(table.columns), table.rows) == (["a", "big", "b"], 3)
    assert read_all(table, ["a", "b"]) == [(1.1, None), ("ä", [1, {"c": None}]), (None, None)]
    write_beside(table, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert written == [
        b'{ "a": 1.10, "big": 123456789012345678901234567890 ,"answer":"0","_error":null}',
        b'{"b":[1,{"c":null}],"a":"\\u00e4","answer":"1","_error":null}',
        b'{"answer":"2","_error":null}',
    ]
    assert [json.loads(line)["answer"] for line in written] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("data", "told"),
    [(b'{"a":1}\n[1]\n', ":2: the line is no JSON object"), (b'{"a":1}\n\n{"a"\n', ":3: the line is not JSON")],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_table(write(tmp_path / "t.jsonl", data))
    assert told in caught.value.message


def test_parquet_keeps_types_metadata_and_compression(tmp_path: Path) -> None:
    table = pa.table(
        {
            "d": pa.array(["x", "y", None]).dictionary_encode(),
            "t": pa.array([1, 2, 3], pa.timestamp("ns", "UTC")),
            "s": pa.array([{"a": [1]}, None, {"a": None}]),
            "b": pa.array([b"\xff", None, b""], pa.large_binary()),
        }
    ).replace_schema_metadata({"mine": "kept"})
    parquet.write_table(table, tmp_path / "t.parquet", compression="zstd", row_group_size=2)
    opened = open_table(str(tmp_path / "t.parquet"))
    write_beside(opened, tmp_path / "out.parquet")
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.select(table.column_names).equals(table)
    assert written.schema.metadata[b"mine"] == b"kept"
    assert written.column("answer").to_pylist() == ["0", "1", "2"]
    assert written.column("_error").type == pa.string()
    assert parquet.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    # Times of single nanoseconds are more than Python has.
    assert read_all(opened, ["t"])[0][0] == "1970-01-01 00:00:00.000000001Z"


def test_reading_begins_at_any_row(tmp_path: Path) -> None:
    numbers = list(range(2500))
    parquet.write_table(pa.table({"n": numbers}), tmp_path / "t.parquet", row_group_size=700)
    (tmp_path / "t.csv").write_text("n\n" + "".join(f"{n}\n" for n in numbers))
    (tmp_path / "t.jsonl").write_text("".join(f'{{"n":{n}}}\n' for n in numbers))
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        table = open_table(str(tmp_path / name))
        assert table.rows == 2500
        for start in (0, 1, 699, 700, 1399, 2499, 2500):
            assert [int(row[0]) for row in read_all(table, start=start)] == numbers[start:]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"nope")
    for name, told in (
        ("t.xlsx", ".csv, .tsv, .parquet"),
        ("t.csv", "There is no table"),
        ("t.parquet", "is not a Parquet file"),
    ):
        with pytest.raises(InvalidInput) as caught:
            open_table(str(tmp_path / name))
        assert told in caught.value.message


def test_answers_have_the_form_of_their_table() -> None:
    check_same_form("a.parquet", Path("b.pq"))
    check_same_form("hf://a/b", Path("b.parquet"))
    for source, target, fitting in (
        ("a.csv", "b.parquet", "b.csv"),
        ("a.jsonl", "b.csv", "b.jsonl"),
        ("a.csv", "b", "b.csv"),
    ):
        with pytest.raises(InvalidInput, match=fitting):
            check_same_form(source, Path(target))


def test_the_nearest_name_is_told() -> None:
    for wanted, told in (
        ("txet", "did you mean 'Text'"),
        ("TEXT", "did you mean 'Text'"),
        ("zzz", "it has 'Text', 'stars'"),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_known([wanted], ["Text", "stars"], table="t.csv", asked_by="--prompt")
        assert told in caught.value.message
        assert "--prompt" in caught.value.message
    with pytest.raises(InvalidInput, match="several columns 'a'"):
        check_known(["a"], ["a", "b", "a"], table="t.csv", asked_by="--prompt")


def test_a_new_column_takes_no_old_one_s_place() -> None:
    check_new(["answer", "_error"], ["a", "a"], table="t")
    for wanted, columns in ((["a"], ["a"]), (["x", "x"], ["a"])):
        with pytest.raises(InvalidInput):
            check_new(wanted, columns, table="t")
