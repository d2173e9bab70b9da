"""Files and tables of more requests than one batch may have: cut by `submit`, and used as if they were one batch."""

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from bench.null.process import NullEngine
from tests.acceptance.command_line import CommandLine, backfill
from tests.support.holding_proxy import HoldingProxy
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer

REQUESTS = 10
LINES_MAX = 4
PARTS = 3
SIZE_MAX = 2000


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None)


@pytest.fixture
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    limits = {"limits__lines": str(LINES_MAX), "limits__file_size_bytes": str(SIZE_MAX)}
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **limits) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_requests(tmp_path)
    return tmp_path


@pytest.fixture
def variables(server: BackfillServer) -> dict[str, str]:
    return {"BACKFILL_URL": server.url}


def write_requests(folder: Path, numbers: range = range(REQUESTS)) -> None:
    (folder / "in.jsonl").write_bytes(b"".join(request_line(number) + b"\n" for number in numbers))


def submit(folder: Path, variables: dict[str, str], *options: str) -> str:
    code, out, err = backfill("submit", "in.jsonl", *options, folder=folder, variables=variables)
    assert code == 0, err
    return out.strip()


def kill_client(
    server: BackfillServer,
    path_end: str,
    number: int,
    when: Any,
    *,
    folder: Path,
    command: Sequence[str] = ("submit", "in.jsonl"),
) -> None:
    """Submit, and kill the client at a request: before the server hears of it, or when it has done what was asked."""
    with (
        HoldingProxy(server.url, path_end, number, when) as proxy,
        CommandLine(*command, folder=folder, variables={"BACKFILL_URL": proxy.url}) as client,
    ):
        assert proxy.held.wait(60)
        client.send(signal.SIGKILL)
        assert client.wait() == -signal.SIGKILL


def list_all(server: BackfillServer) -> list[dict[str, Any]]:
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        found: list[dict[str, Any]] = http.get("/together/v1/batches").json()
    return found


def read_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_file_of_too_many_lines_is_used_as_one_batch(
    folder: Path, variables: dict[str, str], server: BackfillServer, engine: NullEngine
) -> None:
    engine.behave(faults={marker_of(1): ["400"], marker_of(9): ["400"]})
    code, out, err = backfill("submit", "in.jsonl", "--wait", folder=folder, variables=variables)
    assert code == 1, err
    group = out.strip()
    assert group, err
    assert re.fullmatch(r"group-[0-9a-f]{32}", group)
    assert "part 3 of 3: 2 requests" in err
    assert "COMPLETED: 8 answered, 2 failed" in err
    batches = list_all(server)
    assert [batch["metadata"]["part"] for batch in batches] == ["3", "2", "1"]
    assert {(batch["metadata"]["group"], batch["metadata"]["parts"]) for batch in batches} == {(group, "3")}
    assert [batch["metadata"]["first_line"] for batch in batches] == ["9", "5", "1"]

    code, out, _ = backfill("status", group, folder=folder, variables=variables)
    assert code == 0
    assert "status     COMPLETED" in out
    assert "batches    3 of 3" in out
    assert "done       10 of 10, 2 failed (100 %)" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == [batch["id"] for batch in reversed(batches)]
    # The id of a part stands for them all.
    code, out, _ = backfill("status", batches[1]["id"], "--json", folder=folder, variables=variables)
    assert json.loads(out)["id"] == group
    assert json.loads(out)["request_counts"] == {"total": 10, "completed": 8, "failed": 2}
    assert f"part 2 of {group}" in backfill("list", folder=folder, variables=variables)[1]

    code, _, err = backfill("download", group, "-o", "out.jsonl", folder=folder, variables=variables)
    assert (code, err) == (0, "answers: out.jsonl\nerrors: out.errors.jsonl\n")
    assert read_ids(folder / "out.jsonl") == [f"request-{number}" for number in (0, *range(2, 9))]
    assert read_ids(folder / "out.errors.jsonl") == ["request-1", "request-9"]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.errors.jsonl", "out.jsonl"]


def test_parts_are_cut_by_their_size_too(folder: Path, variables: dict[str, str], server: BackfillServer) -> None:
    lines = [request_line(number, padding="x" * (900 if number % 3 else 10)) for number in range(REQUESTS)]
    # Blank lines and line ends as Windows has them count as bytes, and make no part.
    (folder / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join(lines) + b"\n\n\n")
    group = submit(folder, variables, "--wait")
    assert backfill("download", group, "-o", "out.jsonl", folder=folder, variables=variables)[0] == 0
    assert read_ids(folder / "out.jsonl") == [f"request-{number}" for number in range(REQUESTS)]
    sizes = [batch["file_size_bytes"] for batch in list_all(server)]
    assert len(sizes) > PARTS
    assert max(sizes) <= SIZE_MAX


def test_a_file_within_the_limits_is_a_batch_as_ever(
    folder: Path, variables: dict[str, str], server: BackfillServer
) -> None:
    write_requests(folder, range(LINES_MAX))
    first, second = submit(folder, variables), submit(folder, variables)
    assert first != second
    assert ["metadata" in batch for batch in list_all(server)] == [False, False]


def test_a_line_that_no_part_takes_is_told_before_anything_is_sent(
    folder: Path, variables: dict[str, str], server: BackfillServer
) -> None:
    with (folder / "in.jsonl").open("ab") as file:
        file.write(request_line(10, padding="x" * SIZE_MAX) + b"\n")
    code, _, err = backfill("submit", "in.jsonl", folder=folder, variables=variables)
    assert (code, err) == (2, "error: in.jsonl:11: the line has more than the 2,000 bytes that the server takes.\n")
    assert list_all(server) == []


def test_a_custom_id_that_two_parts_have_is_found_first(
    folder: Path, variables: dict[str, str], server: BackfillServer
) -> None:
    with (folder / "in.jsonl").open("ab") as file:
        file.write(b"{}\n" + request_line(10, custom_id="request-2") + b"\n")
    code, _, err = backfill("submit", "in.jsonl", folder=folder, variables=variables)
    assert code == 2
    assert 'in.jsonl:12: custom_id "request-2" is used by line 3 already. [duplicate_custom_id]' in err
    assert "in.jsonl:11: custom_id is missing" in err
    assert "error: in.jsonl has 2 problems; nothing was sent. `backfill check in.jsonl` names all." in err
    assert list_all(server) == []
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        assert http.get("/together/v1/files").json()["data"] == []
    code, out, err = backfill("check", "in.jsonl", folder=folder, variables={"BACKFILL_LIMITS__LINES": "4"})
    assert code == 2
    assert 'in.jsonl:12: custom_id "request-2" is used by line 3 already.' in out
    assert "`backfill submit` cuts it into several" in err


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path_end", ["/files", "/batches"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_client_that_is_killed_goes_on_and_makes_nothing_twice(
    folder: Path,
    variables: dict[str, str],
    server: BackfillServer,
    path_end: str,
    number: int,
    when: Any,
) -> None:
    kill_client(server, path_end, number, when, folder=folder)
    made = number if (path_end, when) == ("/batches", "after") else number - 1
    assert len(list_all(server)) == made
    group = submit(folder, variables)
    assert submit(folder, variables) == group
    assert Counter(batch["metadata"]["part"] for batch in list_all(server)) == Counter(["1", "2", "3"])
    assert backfill("watch", group, folder=folder, variables=variables)[0] == 0
    assert backfill("download", group, "-o", "out.jsonl", folder=folder, variables=variables)[0] == 0
    assert read_ids(folder / "out.jsonl") == [f"request-{number}" for number in range(REQUESTS)]


def test_a_group_of_which_parts_are_missing_says_so(
    folder: Path, server: BackfillServer, variables: dict[str, str]
) -> None:
    kill_client(server, "/batches", 3, "before", folder=folder)
    group = list_all(server)[0]["metadata"]["group"]
    code, _, err = backfill("watch", group, folder=folder, variables=variables)
    assert code == 1
    assert "1 of its batches are not submitted yet" in err
    assert "batches    2 of 3" in backfill("status", group, folder=folder, variables=variables)[1]
    code, _, err = backfill("download", group, "-o", "out.jsonl", folder=folder, variables=variables)
    assert code == 2
    assert f"Only 2 of the 3 batches of {group} were submitted; the same `backfill submit` makes the rest." in err
    assert submit(folder, variables) == group
    assert backfill("watch", group, folder=folder, variables=variables)[0] == 0


def test_other_limits_change_nothing_about_a_group_that_was_begun(
    folder: Path, server: BackfillServer, engine: NullEngine
) -> None:
    kill_client(server, "/batches", 2, "before", folder=folder)
    server.terminate()
    with BackfillServer(server.data_dir, engine.url, limits__lines="5") as other:
        group = submit(folder, {"BACKFILL_URL": other.url})
        assert [batch["request_counts"]["total"] for batch in list_all(other)] == [2, 4, 4]
        assert {batch["metadata"]["group"] for batch in list_all(other)} == {group}


def test_the_same_requests_are_submitted_again_only_if_that_is_meant(
    folder: Path, variables: dict[str, str], server: BackfillServer
) -> None:
    group = submit(folder, variables)
    code, out, err = backfill("submit", "in.jsonl", folder=folder, variables=variables)
    assert (code, out) == (0, f"{group}\n")
    assert "all 3 batches of it were submitted before; --again submits the same requests once more" in err
    again = submit(folder, variables, "--again")
    assert again != group
    # The newest is what the same command stands for now.
    assert submit(folder, variables) == again
    assert submit(folder, variables, "--window", "1h") not in {group, again}
    assert len(list_all(server)) == 3 * PARTS


def test_a_group_is_cancelled_and_what_it_left_runs_again(
    folder: Path, variables: dict[str, str], server: BackfillServer, engine: NullEngine
) -> None:
    engine.behave(hold=True)
    group = submit(folder, variables)
    code, out, _ = backfill("cancel", group, "--json", folder=folder, variables=variables)
    assert code == 0
    assert json.loads(out)["id"] == group
    code, _, err = backfill("watch", group, folder=folder, variables=variables)
    assert code == 1
    assert "CANCELLED: 0 answered, 10 failed" in err
    engine.behave(hold=False)
    code, out, _ = backfill("failures", group, "--json", folder=folder, variables=variables)
    assert [(each["code"], each["count"]) for each in json.loads(out)] == [("batch_cancelled", 10)]
    kind = json.loads(out)[0]["id"]
    code, _, err = backfill("retry", group, "--reason", "timeout", folder=folder, variables=variables)
    assert (code, err) == (2, f"error: No request of that kind failed in {group}.\n")
    code, out, err = backfill("retry", group, "--group", kind, "--wait", folder=folder, variables=variables)
    assert code == 0, err
    assert "10 requests run again" in err
    again = out.strip()
    assert again.startswith("group-")
    assert backfill("download", again, "-o", "out.jsonl", folder=folder, variables=variables)[0] == 0
    assert read_ids(folder / "out.jsonl") == [f"request-{number}" for number in range(REQUESTS)]
    # What runs again belongs to the new group alone.
    code, out, _ = backfill("status", group, "--json", folder=folder, variables=variables)
    assert json.loads(out)["status"] == "CANCELLED"
    assert len(json.loads(out)["batches"]) == PARTS
    assert len(list_all(server)) == 2 * PARTS


def test_results_of_all_parts_are_followed(folder: Path, variables: dict[str, str]) -> None:
    group = submit(folder, variables)
    code, out, _ = backfill("watch", group, "--follow", folder=folder, variables=variables)
    assert code == 0
    assert sorted(json.loads(line)["custom_id"] for line in out.splitlines()) == [
        f"request-{number}" for number in range(REQUESTS)
    ]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_the_rows_of_a_table_come_back_in_order_over_all_parts(
    folder: Path, variables: dict[str, str], server: BackfillServer, name: str
) -> None:
    # Of row 5 of the Parquet file nothing can be asked.
    cells = ["" if number == 5 else f"marker-{number}" for number in range(REQUESTS)]
    if name == "t.csv":
        (folder / name).write_text("n,t\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))
    else:
        values = [b"\xff" if not cell else cell.encode() for cell in cells]
        parquet.write_table(pa.table({"n": list(range(REQUESTS)), "t": values}), folder / name)
    command = ("submit", name, "--prompt", "{t}", "--model-id", "m")
    kill_client(server, "/batches", 2, "before", folder=folder, command=command)
    code, out, err = backfill(*command, folder=folder, variables=variables)
    assert code == 0, err
    group = out.strip()
    assert len(list_all(server)) == PARTS
    backfill("watch", group, folder=folder, variables=variables)
    out_name = f"out{Path(name).suffix}"
    code, _, err = backfill(
        "download", group, "--table", name, "-o", out_name, "--json", folder=folder, variables=variables
    )
    if name == "t.csv":
        rows = [line.split(",", 2) for line in (folder / out_name).read_text().splitlines()[1:]]
        assert [row[0] for row in rows] == [str(number) for number in range(REQUESTS)]
    else:
        table = parquet.read_table(folder / out_name)
        assert table.column("n").to_pylist() == list(range(REQUESTS))
        answers = table.column("answer").to_pylist()
        assert answers[5] is None
        assert all(answers[number].startswith(f"marker-{number} ") for number in range(REQUESTS) if number != 5)
    assert code == (0 if name == "t.csv" else 1)


def test_no_such_group(folder: Path, variables: dict[str, str]) -> None:
    code, _, err = backfill("status", "group-none", folder=folder, variables=variables)
    assert (code, err) == (2, "error: No such group: group-none. `backfill list` shows the batches that there are.\n")
