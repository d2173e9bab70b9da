"""`backfill run` for tables, and what is left when it is stopped in the middle."""

import csv
import json
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bench.null.process import NullEngine
from tests.acceptance.command_line import CommandLine, backfill

ROWS = 12
# They hang on their first try: a run comes to a stand with 8 answered and 4 in flight.
HANGING = range(8, ROWS)
HANG_ONCE = {str(number): ["hang"] for number in HANGING}
QUICK = {"BACKFILL_DISPATCH__CANCEL_GRACE_S": "0.1", "BACKFILL_DISPATCH__BACKOFF_S": "0.01"}
PROMPT = ("--prompt", "marker-{n}")


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "t.parquet")
    return tmp_path


def write_table(path: Path, rows: int = ROWS) -> None:
    parquet.write_table(pa.table({"n": list(range(rows)), "t": [[None, str(n)] for n in range(rows)]}), path)


def options(engine: NullEngine, *more: object, name: str = "t.parquet") -> tuple[object, ...]:
    out = f"out{Path(name).suffix}"
    return ("run", name, "-o", out, "--engine", engine.url, "--model", "m", "--concurrency", 4, *PROMPT, *more)


def assert_complete(folder: Path, *more: str) -> None:
    table = parquet.read_table(folder / "out.parquet")
    assert table.column_names == ["n", "t", "answer", "_error", *more]
    assert table.select(["n", "t"]).equals(parquet.read_table(folder / "t.parquet"))
    for number, answer in enumerate(table.column("answer").to_pylist()):
        assert answer.startswith(f"marker-{number} ")
    assert table.column("_error").null_count == len(table)
    assert sorted(path.name for path in folder.iterdir()) == ["out.parquet", "t.parquet"]


def assert_nothing_ran_twice_but(numbers: range, engine: NullEngine) -> None:
    assert Counter(engine.markers()) == {str(number): 2 if number in numbers else 1 for number in range(ROWS)}


def test_every_row_comes_out_in_order_with_its_answer(folder: Path, engine: NullEngine) -> None:
    code, out, err = backfill(*options(engine, "--usage"), folder=folder, fresh=True)
    assert (code, out) == (0, "")
    assert_complete(folder, "_prompt_tokens", "_completion_tokens", "_latency_ms")
    table = parquet.read_table(folder / "out.parquet")
    assert table.column("_prompt_tokens").to_pylist() == [512] * ROWS
    assert table.column("_latency_ms").null_count == 0
    assert "12 rows answered, 0 failed" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on(folder: Path, engine: NullEngine, number: signal.Signals) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as run:
        run.wait_for_answers(8)
        # Prompts stand in it.
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder / "out.parquet.backfill").rglob("*")}
        run.send(number)
        code = run.wait()
    assert modes == {0o700, 0o600}
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert not (folder / "out.parquet").exists()
    code, out, err = backfill(*options(engine, "--json"), folder=folder, variables=QUICK)
    assert code == 0
    assert "(8 rows were done by an earlier run)" in err
    assert json.loads(out.splitlines()[-1])["answered"] == ROWS
    assert_complete(folder)
    assert_nothing_ran_twice_but(HANGING, engine)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--prompt", "marker-{n}!"), "the prompt changed"),
        (("--system", "Be brief."), "the system changed"),
        (("--columns", "a:int"), "the columns or schema changed"),
        (("--set", "temperature=0"), "the parameters changed"),
        (("--limit", "3"), "the limit changed"),
    ],
)
def test_a_run_goes_on_with_nothing_else(folder: Path, engine: NullEngine, more: tuple[str, ...], told: str) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as run:
        run.wait_for_answers(8)
        run.send(signal.SIGKILL)
        run.wait()
    before = len(engine.markers())
    code, _, err = backfill(*options(engine, *more), folder=folder)
    assert code == 2
    assert told in err
    assert "--force" in err
    assert len(engine.markers()) == before
    assert backfill(*options(engine), folder=folder, variables=QUICK)[0] == 0
    assert_complete(folder)


def test_a_table_that_changed_is_refused(folder: Path, engine: NullEngine) -> None:
    engine.behave(faults=HANG_ONCE)
    with CommandLine(*options(engine, "--json"), folder=folder, variables=QUICK) as run:
        run.wait_for_answers(8)
        run.send(signal.SIGKILL)
        run.wait()
    write_table(folder / "t.parquet", ROWS + 1)
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 2
    assert "the table changed" in err
    engine.behave()
    assert backfill(*options(engine, "--force"), folder=folder)[0] == 0
    assert len(parquet.read_table(folder / "out.parquet")) == ROWS + 1


def test_failed_rows_say_why_and_the_others_keep_their_types(folder: Path, engine: NullEngine) -> None:
    lines = ['n,"a ""b"""', "0,x", "1,", "2,=1+1"]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    engine.behave(faults={"1": ["400"]})
    code, _, err = backfill(*options(engine, name="t.csv"), folder=folder)
    assert code == 1
    assert "2 rows answered, 1 failed" in err
    with (folder / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["n", 'a "b"', "answer", "_error"]
    assert [row[:2] for row in rows] == [["0", "x"], ["1", ""], ["2", "=1+1"]]
    assert [bool(row[3]) for row in rows] == [False, True, False]
    assert rows[1][2] == ""


def test_a_row_that_cannot_be_asked_about_is_an_error_of_its_own(folder: Path, engine: NullEngine) -> None:
    table = pa.table({"n": pa.array([b"0", b"\xff", None, b"3"])})
    parquet.write_table(table, folder / "t.parquet")
    code, _, err = backfill(*options(engine), folder=folder)
    assert code == 1
    assert "3 rows answered, 1 failed" in err
    written = parquet.read_table(folder / "out.parquet").to_pylist()
    assert [row["n"] for row in written] == [b"0", b"\xff", None, b"3"]
    assert [row["_error"] for row in written] == [
        None,
        "column 'n' holds binary data, which has no text [not_sent]",
        None,
        None,
    ]
    assert written[3]["answer"].startswith("marker-3 ")


def test_a_table_of_nothing_that_can_be_asked_comes_out_all_the_same(folder: Path, engine: NullEngine) -> None:
    parquet.write_table(pa.table({"n": pa.array([b"\xff"] * 3)}), folder / "t.parquet")
    assert backfill(*options(engine), folder=folder)[0] == 1
    assert parquet.read_table(folder / "out.parquet").column("_error").null_count == 0
    parquet.write_table(pa.table({"n": pa.array([], pa.string())}), folder / "t.parquet")
    assert backfill(*options(engine, "--force"), folder=folder)[0] == 0
    assert parquet.read_table(folder / "out.parquet").num_rows == 0
    assert engine.markers() == []


def test_only_the_first_rows_are_run_if_that_is_asked(folder: Path, engine: NullEngine) -> None:
    (folder / "t.jsonl").write_text("".join(f'{{"n":{n}}}\n' for n in range(ROWS)))
    assert backfill(*options(engine, "--limit", 5, name="t.jsonl"), folder=folder)[0] == 0
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["n"] for row in rows] == list(range(5))
    assert sorted(engine.markers()) == sorted(map(str, range(5)))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--prompt", "{nn}"), "has no column 'nn', which --prompt names; did you mean 'n'?"),
        (("--id", "N"), "has no column 'N', which --id names; did you mean 'n'?"),
        (("--answer-column", "t"), "has a column 't' already"),
        (("--columns", "n:int"), "has a column 'n' already"),
        (("--errors", "e.jsonl"), "a column for errors"),
        (("--endpoint", "/v1/responses"), "takes a JSONL of requests"),
        (("-o", "out.csv"), "call the output out.parquet"),
        (("-o", "nowhere/out.parquet"), "does not exist"),
        (("-o", "t.parquet", "--force"), "two different files"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    folder: Path, engine: NullEngine, more: tuple[str, ...], told: str
) -> None:
    code, _, err = backfill(*options(engine, *more), folder=folder)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert engine.markers() == []
    assert [path.name for path in folder.iterdir()] == ["t.parquet"]


def test_options_of_tables_need_a_table(folder: Path, engine: NullEngine) -> None:
    (folder / "in.jsonl").write_text("{}\n")
    for option in (("--columns", "a"), ("--usage",), ("--limit", 3), ("--id", "a")):
        code, _, err = backfill("run", "in.jsonl", "-o", "o.jsonl", "--engine", engine.url, *option, folder=folder)
        assert code == 2
        assert f"{option[0]} is for tables, and goes with --prompt" in err


def test_a_run_needs_a_model_and_leaves_nothing_without_one(folder: Path, engine: NullEngine) -> None:
    code, _, err = backfill("run", "t.parquet", "-o", "out.parquet", "--engine", engine.url, *PROMPT, folder=folder)
    assert code == 2
    assert "--model NAME does" in err
    assert [path.name for path in folder.iterdir()] == ["t.parquet"]
