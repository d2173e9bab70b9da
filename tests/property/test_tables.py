"""Any table in: the same rows out, in order, with what was answered about each."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from backfill.tables import AnswerReader, AnswerSchema, RequestBuilder, RequestPlan, ResultFiles, join, open_table

_NEW = {"said", "n", "_error"}
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
# A name that begins with a brace cannot stand in a prompt: "{{{" is a brace and the beginning of a place.
_NAMES = st.lists(
    _TEXT.filter(lambda name: name not in _NEW and not name.startswith("{")), min_size=1, max_size=4, unique=True
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_READER = AnswerReader(AnswerSchema.of_columns("said:str, n:int"))
_KINDS = (
    pa.string(),
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.timestamp("us", "UTC"),
    pa.date32(),
    pa.binary(),
    pa.list_(pa.int64()),
    pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))]),
)
_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): _TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "UTC"): st.integers(0, 2**51),
    pa.date32(): st.dates(),
    pa.binary(): st.binary(max_size=8),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-9, 9), max_size=3),
    pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"a": st.none() | _TEXT, "b": st.none() | st.lists(_TEXT, max_size=2)}
    ),
}
_slow_is_fine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def quote_name(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


def answer_all(path: Path, columns: list[str]) -> tuple[list[str | None], Path]:
    """Make requests of a table, answer each with its own prompt, and join: the prompts, and where the table is."""
    table = open_table(str(path))
    assert list(table.columns) == columns or path.suffix == ".jsonl"
    prompt = "|".join(f"{{{quote_name(name)}}}" for name in columns)
    builder = RequestBuilder(RequestPlan(prompt=prompt))
    prompts: list[str | None] = []
    results = []
    for block in table.read():
        for values in block.take(builder.columns):
            if builder.find_obstacle(values) is not None:
                prompts.append(None)
                continue
            line = json.loads(builder.build(len(prompts), values))
            (message,) = line["body"]["messages"]
            content = json.dumps({"said": message["content"], "n": len(prompts)})
            body = {"choices": [{"message": {"content": content}}]}
            results.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
            prompts.append(message["content"])
    # Whatever order a server answers in.
    results.reverse()
    answers = path.with_name("answers.jsonl")
    answers.write_text("".join(json.dumps(result) + "\n" for result in results))
    out = path.with_name(f"out{path.suffix}")
    with ResultFiles([answers]) as found, out.open("wb") as file:
        joined = join(table, found, _READER, None, file)
    assert joined == (len(prompts), prompts.count(None), 0)
    return prompts, out


@_slow_is_fine
@given(data=st.data())
def test_csv(data: st.DataObject) -> None:
    names = data.draw(_NAMES)
    rows = data.draw(st.lists(st.lists(_TEXT, min_size=len(names), max_size=len(names)), max_size=6))
    delimiter = data.draw(st.sampled_from(",;\t"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("t.tsv" if delimiter == "\t" else "t.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([names, *rows])
        table = open_table(str(path))
        if getattr(table, "delimiter", None) != delimiter:
            return  # its cells hold other delimiters in such a way that nobody could tell
        prompts, out = answer_all(path, names)
        with out.open(encoding="utf-8", newline="") as file:
            header, *written = csv.reader(file, delimiter=delimiter)
    assert header == [*names, "said", "n", "_error"]
    assert [row[: len(names)] for row in written] == rows
    assert prompts == ["|".join(row) for row in rows]
    assert [row[len(names) :] for row in written] == [[prompt, str(n), ""] for n, prompt in enumerate(prompts)]


@_slow_is_fine
@given(data=st.data())
def test_json_lines(data: st.DataObject) -> None:
    names = data.draw(_NAMES)
    rows = data.draw(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(names, _JSON)), max_size=6))
    known = [name for name in names if any(name in row for row in rows)]
    if not known:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        prompts, out = answer_all(path, known)
        written = [json.loads(line) for line in out.read_text().splitlines()]
    new = [{"said": prompt, "n": n, "_error": None} for n, prompt in enumerate(prompts)]
    assert written == [row | each for row, each in zip(rows, new, strict=True)]
    for name in known:
        if all(isinstance(row.get(name), str) for row in rows):
            assert all(str(row[name]) in (prompt or "") for row, prompt in zip(rows, prompts, strict=True))


@_slow_is_fine
@given(data=st.data())
def test_parquet(data: st.DataObject) -> None:
    names = data.draw(_NAMES)
    count = data.draw(st.integers(0, 6))
    columns = []
    for _ in names:
        kind = data.draw(st.sampled_from(_KINDS))
        values = data.draw(st.lists(st.none() | _VALUES[kind], min_size=count, max_size=count))
        columns.append(pa.array(values, kind))
    table = pa.Table.from_arrays(columns, names=names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        parquet.write_table(table, path, row_group_size=data.draw(st.integers(1, 4)))
        prompts, out = answer_all(path, names)
        written = parquet.read_table(out)
        opened = [pd.read_parquet(out), pl.read_parquet(out)]
        # DuckDB tells columns apart by more than their case, and has no empty names.
        seen = duckdb.connect().execute(f"select count(*), count(_error) from read_parquet('{out}')").fetchall()
    assert [len(frame) for frame in opened] == [count, count]
    assert seen == [(count, prompts.count(None))]
    # NaN is not equal to itself, but its bytes are.
    assert written.schema.remove_metadata() == pa.schema(
        [*table.schema, ("said", pa.string()), ("n", pa.int64()), ("_error", pa.string())]
    )
    assert repr(written.select(names).to_pylist()) == repr(table.to_pylist())
    assert written.column("said").to_pylist() == prompts
    failed = [prompt is None for prompt in prompts]
    assert [error is not None for error in written.column("_error").to_pylist()] == failed
