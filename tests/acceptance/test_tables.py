"""Tables at the command line: made into requests, run, and joined with their answers."""

import json
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.server_process import BackfillServer

PROMPT = ("--prompt", "Classify: {text}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reviews.csv").write_text('id;text\na;"good; very"\nb;bad\nc;=1+1\n')
    return tmp_path


def test_a_table_is_made_into_requests_and_joined_with_results(folder: Path) -> None:
    code, out, err = backfill("make", "reviews.csv", *PROMPT, "-o", "batch.jsonl", "--model", "m", folder=folder)
    assert (code, out) == (0, "")
    assert "cells are separated by semicolons" in err
    lines = [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ["row-0", "row-1", "row-2"]
    assert lines[0]["body"] == {"model": "m", "messages": [{"role": "user", "content": "Classify: good; very"}]}
    assert backfill("check", "batch.jsonl", "--dialect", "openai", folder=folder)[0] == 0
    answer = {"choices": [{"message": {"content": '{"label":"pos"}'}}]}
    results = [
        {"custom_id": "row-2", "response": {"status_code": 200, "body": answer}, "error": None},
        {"custom_id": "row-0", "response": {"status_code": 200, "body": answer}, "error": None},
        {"custom_id": "row-9", "error": {"message": "boom", "code": "x"}},
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    options = ("--columns", "label:enum(pos,neg)", "--json")
    code, out, err = backfill("join", "reviews.csv", "results.jsonl", "-o", "out.csv", *options, folder=folder)
    assert code == 1
    assert json.loads(out) == {"event": "joined", "rows": 3, "failed": 1, "unknown": 1, "output": "out.csv"}
    assert "1 results belong to no row" in err
    assert (folder / "out.csv").read_text().splitlines() == [
        "id;text;label;_error",
        'a;"good; very";pos;',
        "b;bad;;there is no result for this row [missing]",
        "c;=1+1;pos;",
    ]


def test_nothing_is_written_for_a_column_that_is_not_there(folder: Path) -> None:
    code, _, err = backfill("make", "reviews.csv", "--prompt", "{txt}", "-o", "batch.jsonl", folder=folder)
    assert code == 2
    assert "reviews.csv has no column 'txt', which --prompt names; did you mean 'text'?" in err
    assert [path.name for path in folder.iterdir()] == ["reviews.csv"]


def test_a_preview_shows_what_would_be_asked(folder: Path) -> None:
    (folder / "system.txt").write_text("Be brief.\n")
    options = ("--system", "@system.txt", "--set", "temperature=0", "--preview", 2)
    code, out, err = backfill("make", "reviews.csv", *PROMPT, *options, folder=folder)
    assert code == 0
    assert out.splitlines() == [
        "--- row 1",
        "system: Be brief.",
        "user: Classify: good; very",
        'besides: {"temperature":0}',
        "--- row 2",
        "system: Be brief.",
        "user: Classify: bad",
        'besides: {"temperature":0}',
    ]
    assert "3 rows in all; nothing was sent" in err


def test_ids_must_tell_rows_apart(folder: Path) -> None:
    (folder / "t.csv").write_text("id,text\na,1\nb,2\na,3\n")
    code, _, err = backfill("make", "t.csv", *PROMPT, "--id", "id", "-o", "batch.jsonl", folder=folder)
    assert code == 2
    assert "the id 'a' twice in the column 'id', in the rows 1 and 3" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--columns", "a:intt"), "unknown type 'intt'"),
        (("--columns", "a", "--schema", "x.json"), "give one of them"),
        (("--schema", "nix.json"), "nix.json"),
        (("--schema", "nix:Model"), "nix:Model"),
        (("--schema", "json:loads"), "no pydantic model"),
        (("--set", "temperature"), "NAME=VALUE"),
        (("--system", "@nix.txt"), "nix.txt"),
        (("--prompt", "{a"), "never closed"),
        (("-o", "reviews.csv", "--force"), "two different files"),
    ],
)
def test_options_without_sense_are_refused_in_one_line(folder: Path, options: tuple[str, ...], told: str) -> None:
    code, _, err = backfill("make", "reviews.csv", *PROMPT, "-o", "batch.jsonl", *options, folder=folder)
    assert code == 2
    assert told in err
    assert err.count("error:") == 1
    assert "Traceback" not in err


def test_a_server_takes_a_table_and_gives_its_answers(folder: Path) -> None:
    with NullEngine(echo=True) as engine, BackfillServer(folder / "data", engine.url) as server:
        reach = {"BACKFILL_URL": server.url}
        submit = ("submit", "reviews.csv", "--prompt", "marker-{id}", "--id", "id", "--model-id", "m")
        code, out, err = backfill(*submit, "--preview", 1, folder=folder, variables=reach)
        assert (code, out.splitlines()) == (0, ["--- row 1", "user: marker-a"])
        code, out, err = backfill(*submit, folder=folder, variables=reach)
        assert code == 0, err
        batch = out.strip()
        assert backfill("watch", batch, folder=folder, variables=reach)[0] == 0
        download = ("download", batch, "--table", "reviews.csv", "--id", "id")
        assert backfill(*download, folder=folder, variables=reach)[0] == 2
        code, _, err = backfill(*download, "-o", "out.csv", folder=folder, variables=reach)
        assert code == 0, err
        assert "3 rows, 0 without an answer" in err
        rows = (folder / "out.csv").read_text().splitlines()
        assert [row.partition(" The null")[0] for row in rows] == [
            "id;text;answer;_error",
            'a;"good; very";marker-a',
            "b;bad;marker-b",
            "c;=1+1;marker-c",
        ]
        assert backfill(*download, "-o", "out.csv", folder=folder, variables=reach)[0] == 2
        assert sorted(path.name for path in folder.iterdir()) == ["data", "out.csv", "reviews.csv"]
        for command in (("submit", "reviews.csv"), ("download", batch, "--usage"), ("submit", "a.jsonl", "--usage")):
            code, _, err = backfill(*command, folder=folder, variables=reach)
            assert code == 2
            assert "Traceback" not in err
