"""Rows with their answers, in other forms than the rows came in, piece by piece."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from backfill.errors import InvalidInput
from backfill.tables import AnswerReader, AnswerSchema, Form, NameBlock, Question, ResultWriter, Table, open_table
from backfill.tables.row_limits import ROW_LENGTH_MAX

ANSWER = b'{"choices":[{"message":{"content":"%b"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


def write_all(table: Table, reader: AnswerReader, form: Form) -> bytes:
    writer = ResultWriter(table, reader.columns, form)
    pieces = [writer.write(block, [reader.read(ANSWER % b"good")] * len(block)) for block in table.read()]
    return b"".join([*pieces, writer.finish()])


def make_reader(taken: Sequence[str] = ()) -> AnswerReader:
    return Question().make_reader(list(taken))


def test_csv_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa;b\r\n1;"x;y"\r\n'.encode())
    table = open_table(str(path))
    written = write_all(table, make_reader(), Form.CSV).decode()
    assert written == '\ufeffa;b;answer;_error;_prompt_tokens;_completion_tokens\r\n1;"x;y";good;;3;2\r\n'


def test_every_form_becomes_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"n": 1, "tags": ["a"], "text": "x,y"}\n{"text": null}\n')
    parquet.write_table(pa.table({"n": [1, None], "raw": [b"\xff", b"ok"]}), tmp_path / "t.parquet")
    lines = open_table(str(tmp_path / "t.jsonl"))
    assert write_all(lines, make_reader(), Form.CSV).decode().splitlines() == [
        "n,tags,text,answer,_error,_prompt_tokens,_completion_tokens",
        '1,"[""a""]","x,y",good,,3,2',
        ",,,good,,3,2",
    ]
    found = parquet.read_table(io.BytesIO(write_all(lines, make_reader(), Form.PARQUET))).to_pylist()
    assert found[0] == {
        "n": "1",
        "tags": '["a"]',
        "text": "x,y",
        "answer": "good",
        "_error": None,
        "_prompt_tokens": 3,
        "_completion_tokens": 2,
    }
    assert found[1]["text"] is None
    typed = open_table(str(tmp_path / "t.parquet"))
    kept = parquet.read_table(io.BytesIO(write_all(typed, make_reader(), Form.PARQUET)))
    assert kept.schema.field("n").type == pa.int64()
    assert write_all(typed, make_reader(), Form.CSV).decode().splitlines()[1:] == ["1,,good,,3,2", ",ok,good,,3,2"]


def test_rows_that_have_only_names() -> None:
    reader = make_reader()
    writer = ResultWriter(None, reader.columns, Form.CSV)
    piece = writer.write(NameBlock(["a", "b"]), [reader.read(ANSWER % b"x"), reader.fail("no [why]")])
    rows = (piece + writer.finish()).decode().splitlines()
    assert rows == ["custom_id,answer,_error,_prompt_tokens,_completion_tokens", "a,x,,3,2", "b,,no [why],,"]


def test_new_columns_never_take_the_name_of_an_old_one() -> None:
    names = [column.name for column in make_reader(["answer", "_error", "_error_2"]).columns]
    assert names[:2] == ["answer_2", "_error_3"]


@pytest.mark.parametrize(
    "question",
    [
        Question(prompt="{a}", columns="n:int"),
        Question(
            answer_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, limit=3
        ),
    ],
)
def test_a_question_says_the_same_when_it_is_read_again(question: Question) -> None:
    assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question
    made = question.make_schema()
    assert isinstance(made, AnswerSchema)
    assert made.decode('{"n": 1}') == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": 'a"b'},
        {"columns": "a\nb:int"},
        {"answer_schema": {"properties": {"a\\": {}}}},
        {"answer_schema": {"properties": {"a": {}}, "required": 5}},
        {"answer_schema": {"properties": {"a": {}}, "required": [[]]}},
        {"answer_schema": {"properties": []}},
    ],
)
def test_what_is_no_schema_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Question(**wrong).make_schema()


@pytest.mark.parametrize(
    "odd", [{"type": {}}, {"type": [[]]}, {"type": "string", "enum": 5}, {"$ref": "#/$defs/x"}, {"anyOf": 3}, 7]
)
def test_what_is_no_type_of_a_column_is_json(odd: Any) -> None:
    made = Question(answer_schema={"properties": {"a": odd}, "$defs": []}).make_schema()
    assert made is not None
    assert made.columns[0].type.kind in {"json", "str"}


def test_two_columns_of_one_name_go_into_csv_only(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,a\n1,2\n")
    table = open_table(str(path))
    assert write_all(table, make_reader(), Form.CSV).startswith(b"a,a,answer")
    with pytest.raises(InvalidInput, match="one name"):
        write_all(table, make_reader(), Form.PARQUET)


def test_without_pyarrow_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    table = open_table(str(path))
    monkeypatch.setitem(sys.modules, "backfill.tables.text_columns", None)
    with pytest.raises(InvalidInput, match=r"pip install 'backfill\[data\]'"):
        write_all(table, make_reader(), Form.PARQUET)
    assert write_all(table, make_reader(), Form.CSV)


@pytest.mark.parametrize(("name", "beginning"), [("t.csv", b'a,b\n"'), ("t.jsonl", b'{"a":"')])
def test_a_row_without_an_end_is_not_held_in_memory(tmp_path: Path, name: str, beginning: bytes) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(beginning)
        for _ in range(ROW_LENGTH_MAX // (1 << 20) + 2):
            file.write((b"x" * 1023 + (b"\n" if name == "t.csv" else b"x")) * 1024)
    with pytest.raises(InvalidInput, match="the row is longer than 64 MiB"):
        open_table(str(path))


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1\n1,2\n1,2,3\n\n1\n")
    with pytest.raises(InvalidInput) as caught:
        open_table(str(tmp_path / "t.csv"))
    assert "t.csv:2: the row has 1 cell where the header has 2." in caught.value.message
    assert caught.value.message.endswith("The same kind of thing is wrong in lines 4, 6.")
    lines: list[Any] = [{"a": 1}, [1], {"a": 2}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{oops\n")
    with pytest.raises(InvalidInput, match=r"t.jsonl:2: .*in line 4\.$"):
        open_table(str(tmp_path / "t.jsonl"))


@pytest.mark.parametrize(
    ("endpoint", "body", "answer"),
    [
        (
            "/v1/responses",
            b'{"output":[{},{"content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":3,"output_tokens":2}}',
            "hi",
        ),
        (
            "/v1/messages",
            b'{"content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":3,"output_tokens":2}}',
            "hi",
        ),
        (
            "/v1/rerank",
            b'{"results":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
            '{"results":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
        ),
    ],
)
def test_answers_of_other_endpoints(endpoint: str, body: bytes, answer: str) -> None:
    assert Question(endpoint=endpoint).make_reader().read(body) == [answer, None, 3, 2]
