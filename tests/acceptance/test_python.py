"""`import backfill`: a table in, the same kind of table out; stopped, the same call goes on."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

import backfill
from backfill.batch import Counts
from backfill.errors import InvalidInput
from backfill.local import progress_bar
from bench.null.process import NullEngine

ROWS = 12
HANGING = range(8, ROWS)
HANG_ONCE = {str(number): ["hang"] for number in HANGING}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BACKFILL_DISPATCH__CANCEL_GRACE_S", "0.1")
    monkeypatch.setenv("BACKFILL_DISPATCH__BACKOFF_S", "0.01")
    return tmp_path / "cache"


def make_rows(count: int = ROWS) -> list[dict[str, Any]]:
    return [{"n": number, "more": {"a": [number, None]}} for number in range(count)]


def list_states(cache: Path) -> list[str]:
    return [path.name for path in (cache / "backfill" / "runs").iterdir()]


def test_a_list_of_dicts_comes_back_with_answers(engine: NullEngine, cache: Path) -> None:
    rows = make_rows(3)
    answered = backfill.run(rows, "marker-{n}", model="m", engine=engine.url)
    assert [row["answer"].split()[0] for row in answered] == ["marker-0", "marker-1", "marker-2"]
    assert [{**row, "answer": 0, "_error": 0} for row in rows] == [
        {**row, "answer": 0, "_error": 0} for row in answered
    ]
    assert rows == make_rows(3)
    assert list_states(cache) == []


def test_every_kind_of_table_comes_back_as_its_kind(engine: NullEngine) -> None:
    numbers = list(range(5))
    frame = pd.DataFrame({"n": numbers, "odd": [object(), 1, "x", None, []]}, index=[9, 8, 7, 7, 5])
    kinds: list[tuple[Any, Callable[[Any], list[str]]]] = [
        (frame, lambda table: list(table["answer"])),
        (pl.DataFrame({"n": numbers}), lambda table: list(table["answer"])),
        (pa.table({"n": numbers}), lambda table: list(table.column("answer").to_pylist())),
        (duckdb.sql("select i::int as n from range(5) r(i)"), lambda table: [row[1] for row in table.fetchall()]),
    ]
    for given, read in kinds:
        answered = backfill.run(given, "marker-{n}", model="m", engine=engine.url, usage=True)
        assert type(answered) is type(given)
        assert [answer.split()[0] for answer in read(answered)] == [f"marker-{n}" for n in numbers]
    answered = backfill.run(frame, "marker-{n}", model="m", engine=engine.url, usage=True)
    pd.testing.assert_frame_equal(answered[["n", "odd"]], frame)
    assert answered["_prompt_tokens"].dtype == pd.Int64Dtype()
    stream = pa.table({"n": numbers}).to_reader()
    assert len(backfill.run(stream, "marker-{n}", model="m", engine=engine.url)) == 5


class Verdict(BaseModel):
    label: Literal["good", "bad"]
    score: int | None = None


@pytest.mark.parametrize("columns", [Verdict, Verdict.model_json_schema(), "label:enum(good,bad), score:int?"])
def test_answers_that_do_not_fit_are_errors_of_their_rows(engine: NullEngine, columns: Any) -> None:
    answered = backfill.run(pl.DataFrame({"n": [1, 2]}), "marker-{n}", columns=columns, model="m", engine=engine.url)
    assert answered.schema == {"n": pl.Int64, "label": pl.String, "score": pl.Int64, "_error": pl.String}
    assert answered["label"].to_list() == [None, None]
    assert all("the answer is not JSON" in error for error in answered["_error"])


def test_a_path_goes_to_a_path(engine: NullEngine, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("n\n1\n2\n")
    out = backfill.run("t.csv", "marker-{n}", model="m", engine=engine.url, output="out.csv")
    assert out == Path("out.csv")
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["n", "1", "2"]


def test_results_are_given_as_they_finish(engine: NullEngine) -> None:
    engine.behave(faults={"1": ["400"]})
    results = list(backfill.stream(make_rows(), "marker-{n}", model="m", engine=engine.url))
    assert sorted(result.row for result in results) == list(range(ROWS))
    for result in results:
        assert result.columns["_error"] == result.error
        assert (result.error is None) == (result.row != 1)
        if result.error is None:
            assert result.columns["answer"].startswith(f"marker-{result.row} ")


def test_rows_that_cannot_be_asked_about_are_given_too(engine: NullEngine) -> None:
    rows = [{"n": 0}, {"n": b"\xff"}, {"n": 2}, {"n": b"\xfe"}]
    results = {each.row: each for each in backfill.stream(rows, "marker-{n}", model="m", engine=engine.url)}
    assert {row: each.error is None for row, each in results.items()} == {0: True, 1: False, 2: True, 3: False}
    assert results[2].columns["answer"].startswith("marker-2 ")


def test_whoever_leaves_a_stream_goes_on_with_it_later(engine: NullEngine) -> None:
    engine.behave(faults=HANG_ONCE)
    options: backfill.RunOptions = {"model": "m", "engine": engine.url, "concurrency": 4}
    seen = []
    for result in backfill.stream(make_rows(), "marker-{n}", **options):
        seen.append(result.row)
        if len(seen) == 8:
            break
    results = list(backfill.stream(make_rows(), "marker-{n}", **options))
    assert sorted(result.row for result in results) == list(range(ROWS))
    assert Counter(engine.markers()) == {str(n): 2 if n in HANGING else 1 for n in range(ROWS)}


SCRIPT = """
import sys, backfill
rows = [{"n": number} for number in range(12)]
options = {"model": "m", "engine": sys.argv[1], "concurrency": 4}
try:
    for result in backfill.stream(rows, "marker-{n}", **options) if sys.argv[2] == "stream" else ():
        print(result.row, flush=True)
    print(len(backfill.run(rows, "marker-{n}", **options)), flush=True)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_was_stopped_goes_on(engine: NullEngine, number: signal.Signals) -> None:
    engine.behave(faults=HANG_ONCE)
    command = [sys.executable, "-c", SCRIPT, engine.url]
    with subprocess.Popen([*command, "stream"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        given = [int(process.stdout.readline()) for _ in range(8)]
        process.send_signal(number)
        assert process.wait(30) == (7 if number == signal.SIGINT else -number)
    assert sorted(given) == list(range(8))
    done = subprocess.run([*command, "run"], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "12\n"
    assert done.stderr == ""
    assert Counter(engine.markers()) == {str(n): 2 if n in HANGING else 1 for n in range(ROWS)}


async def test_a_program_with_an_event_loop_waits_without_blocking_it(engine: NullEngine) -> None:
    rows = make_rows(3)
    first, second = await asyncio.gather(
        backfill.arun(rows, "marker-{n}", model="m", engine=engine.url),
        backfill.arun(rows, "marker-{n} again", model="m", engine=engine.url),
    )
    assert len(first) == len(second) == 3
    found = [each.row async for each in backfill.astream(rows, "marker-{n}", model="m", engine=engine.url)]
    assert sorted(found) == [0, 1, 2]


async def test_a_cancelled_call_goes_on_when_it_is_made_again(engine: NullEngine) -> None:
    engine.behave(hold=True)
    call = asyncio.create_task(backfill.arun(make_rows(), "marker-{n}", model="m", engine=engine.url))
    await engine.wait_for_async(lambda stats: stats["received"] > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    engine.behave(hold=False)
    assert len(await backfill.arun(make_rows(), "marker-{n}", model="m", engine=engine.url)) == ROWS


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        ([{"text": 1}], {}, "did you mean 'text'"),
        ([{"txt": 1, "answer": 2}], {}, "has a column 'answer' already"),
        ([{"txt": 1}, 7], {}, "Row 2 is of type int"),
        (7, {}, "A table is a path, a list of dicts"),
        ("nix.csv", {}, "There is no table nix.csv"),
        ([{"txt": 1}], {"output": "x.csv"}, "goes with the path of a table"),
        ([{"txt": 1}], {"columns": 7}, "columns takes a pydantic model"),
        ([{"txt": 1}], {"model": None}, "which model"),
        ([{"txt": 1}], {"endpoint": "/v1/nix"}, "/v1/nix"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_sent(
    engine: NullEngine, table: Any, options: dict[str, Any], told: str
) -> None:
    for call in (backfill.run, backfill.stream):
        with pytest.raises(InvalidInput) as caught:
            call(table, "{txt}", **{"model": "m", "engine": engine.url} | options)
        assert told in caught.value.message or (call is backfill.stream and "output" in options)
    assert engine.markers() == []


def test_a_notebook_shows_a_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            shown.append(data["text/plain"])

    class Display:
        @staticmethod
        def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
            return Handle()

    class Shell:
        kernel = object()

    class IPython:
        display = Display

        @staticmethod
        def get_ipython() -> Shell:
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    monkeypatch.setitem(sys.modules, "IPython.display", Display)
    bar = progress_bar.find_bar(None)
    bar.show(Counts(total=10, answered=4, failed=1))
    bar.close()
    assert shown[-1] == f"{'█' * 15}{'░' * 15} 5 of 10 1 failed"


def test_an_import_loads_nothing_heavy() -> None:
    code = "import sys, backfill; dir(backfill); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert [name for name in loaded if name.startswith("backfill")] == ["backfill"]
    heavy = {"asyncio", "aiohttp", "pydantic", "msgspec", "numpy", "pandas", "polars", "pyarrow", "sqlalchemy", "rich"}
    assert heavy & set(loaded) == set()
