"""submit, status, watch, list, cancel and download against a real `backfill serve`."""

import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.null.process import NullEngine
from tests.acceptance.command_line import CommandLine, backfill
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer
from tests.support.webhook_receiver import WebhookReceiver

KEY = "the-key"


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None)


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, server__api_keys=f'["{KEY}"]') as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [request_line(number) for number in range(6)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return tmp_path


@pytest.fixture
def variables(server: BackfillServer) -> dict[str, str]:
    return {"BACKFILL_URL": server.url + "/v1", "BACKFILL_API_KEY": KEY}


def submit(folder: Path, variables: dict[str, str], *options: str, fresh: bool = False) -> str:
    code, out, err = backfill("submit", "in.jsonl", *options, folder=folder, variables=variables, fresh=fresh)
    assert code == 0, err
    return out.strip()


def test_a_batch_from_submit_to_download(folder: Path, variables: dict[str, str]) -> None:
    batch_id = submit(folder, variables, fresh=True)
    code, _, err = backfill("watch", batch_id, folder=folder, variables=variables, fresh=True)
    assert code == 0
    assert "COMPLETED: 6 answered, 0 failed" in err

    code, out, err = backfill("status", batch_id, folder=folder, variables=variables, fresh=True)
    assert code == 0
    assert "status     COMPLETED" in out
    assert "done       6 of 6, 0 failed (100 %)" in out

    code, out, _ = backfill("list", folder=folder, variables=variables, fresh=True)
    assert code == 0
    assert any(line.startswith(batch_id) and "COMPLETED" in line and "6/6" in line for line in out.splitlines())

    code, _, err = backfill("download", batch_id, "-o", "out.jsonl", folder=folder, variables=variables, fresh=True)
    assert (code, err) == (0, "answers: out.jsonl\n")
    answered = [json.loads(line)["custom_id"] for line in (folder / "out.jsonl").read_text().splitlines()]
    assert answered == [f"request-{number}" for number in range(6)]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_download_replaces_nothing_without_force(folder: Path, variables: dict[str, str]) -> None:
    batch_id = submit(folder, variables, "--wait", "--window", "1h")
    mine = folder / f"{batch_id}.jsonl"
    mine.write_text("mine\n")
    code, _, err = backfill("download", batch_id, folder=folder, variables=variables)
    assert code == 2
    assert err.startswith(f"error: {mine.name} exists already. Use --force")
    assert mine.read_text() == "mine\n"
    code, out, _ = backfill("download", batch_id, "--force", "--json", folder=folder, variables=variables)
    assert code == 0
    assert json.loads(out) == {"batch_id": batch_id, "output": mine.name, "errors": None}
    assert len(mine.read_text().splitlines()) == 6


def test_results_come_as_a_table(folder: Path, variables: dict[str, str]) -> None:
    batch_id = submit(folder, variables)
    assert backfill("watch", batch_id, folder=folder, variables=variables)[0] == 0
    code, _, err = backfill("download", batch_id, "--format", "csv", folder=folder, variables=variables)
    assert code == 0, err
    rows = list(csv.DictReader((folder / f"{batch_id}.csv").read_text().splitlines()))
    wanted = [json.loads(line)["custom_id"] for line in (folder / "in.jsonl").read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == wanted
    assert all(row["answer"] and not row["_error"] for row in rows)
    code, _, err = backfill("download", "group-1", "--format", "csv", folder=folder, variables=variables)
    assert code == 2
    assert "stands for several batches" in err


def test_failed_requests_make_exit_code_1(folder: Path, variables: dict[str, str], engine: NullEngine) -> None:
    engine.behave(faults={marker_of(2): ["400"]})
    code, out, err = backfill("submit", "in.jsonl", "--wait", "--json", folder=folder, variables=variables)
    assert code == 1
    events = [json.loads(line) for line in out.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("submitted", "finished")
    assert {event["event"] for event in events[1:-1]} <= {"progress"}
    assert events[-1]["batch"]["request_counts"] == {"total": 6, "completed": 5, "failed": 1}
    assert "5 answered, 1 failed" in err
    batch_id = events[0]["batch_id"]
    assert backfill("download", batch_id, "-o", "a.jsonl", folder=folder, variables=variables)[0] == 0
    assert [json.loads(line)["custom_id"] for line in (folder / "a.errors.jsonl").read_text().splitlines()] == [
        "request-2"
    ]


def test_a_file_that_is_no_batch_makes_exit_code_2(folder: Path, variables: dict[str, str]) -> None:
    (folder / "in.jsonl").write_text('{"custom_id": 1}\n')
    code, _, err = backfill("submit", "in.jsonl", "--wait", folder=folder, variables=variables)
    assert code == 2
    assert "error: line 1: custom_id must be a string." in err


def test_a_watcher_goes_and_the_batch_stays(folder: Path, variables: dict[str, str], engine: NullEngine) -> None:
    engine.behave(hold=True)
    batch_id = submit(folder, variables)
    with CommandLine("watch", batch_id, folder=folder, variables=variables) as watcher:
        watcher.wait_for(lambda it: "0 of 6" in it.err)
        code, _, err = backfill("download", batch_id, folder=folder, variables=variables)
        assert code == 2
        assert err == f"error: The batch has not ended (IN_PROGRESS); `backfill watch {batch_id}` waits for it.\n"
        watcher.send(signal.SIGINT)
        assert watcher.wait() == 130
        assert f"the batch goes on; `backfill watch {batch_id}` shows it again" in watcher.err
    engine.behave(hold=False)
    assert backfill("watch", batch_id, folder=folder, variables=variables)[0] == 0


def test_a_batch_is_cancelled(folder: Path, variables: dict[str, str], engine: NullEngine) -> None:
    engine.behave(hold=True)
    batch_id = submit(folder, variables)
    code, out, _ = backfill("cancel", batch_id, "--json", folder=folder, variables=variables, fresh=True)
    assert code == 0
    assert json.loads(out)["id"] == batch_id
    code, _, err = backfill("watch", batch_id, folder=folder, variables=variables)
    assert code == 1
    assert "CANCELLED: 0 answered, 6 failed" in err


def test_batches_of_openai_clients_are_shown_too(
    folder: Path, server: BackfillServer, variables: dict[str, str]
) -> None:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as http:
        lines = (
            (folder / "in.jsonl")
            .read_bytes()
            .replace(b'"body"', b'"method": "POST", "url": "/v1/chat/completions", "body"')
        )
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()
        wanted = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = http.post("/v1/batches", json=wanted).json()["id"]
    assert backfill("watch", batch_id, folder=folder, variables=variables)[0] == 0
    assert "COMPLETED" in backfill("status", batch_id, folder=folder, variables=variables)[1]


def test_without_a_batch_the_server_is_shown(folder: Path, variables: dict[str, str], engine: NullEngine) -> None:
    engine.behave(hold=True)
    running = submit(folder, variables)
    engine.wait_for(lambda stats: stats["in_flight"] > 0)
    code, out, err = backfill("status", folder=folder, variables=variables | {"COLUMNS": "80"})
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["engine", "state", "in", "flight", "/", "limit", "requests/s", "tokens/s", "bottleneck"]
    assert re.match(r"null +up +[1-6] / [1-8] ", lines[1]), out
    assert f"{running}  IN_PROGRESS              0/6" in lines
    assert max(map(len, lines)) <= 80
    code, out, _ = backfill("status", "--json", folder=folder, variables=variables)
    shown = json.loads(out)
    assert (code, [engine["name"] for engine in shown["engines"]]) == (0, ["null"])
    assert shown["engines"][0]["in_flight"] > 0
    assert shown["batches"][0]["id"] == running
    engine.behave(hold=False)
    assert backfill("watch", running, folder=folder, variables=variables)[0] == 0


def test_the_newest_batches_stand_below_the_engines(folder: Path, variables: dict[str, str]) -> None:
    newest = [submit(folder, variables, "--window", f"{hours}h") for hours in range(1, 7)]
    lines = backfill("status", folder=folder, variables=variables)[1].splitlines()
    assert [line.split()[0] for line in lines[-5:]] == newest[:0:-1]
    for batch_id in newest:
        assert backfill("watch", batch_id, folder=folder, variables=variables)[0] == 0


def test_metrics_count_what_was_answered(folder: Path, variables: dict[str, str], server: BackfillServer) -> None:
    assert backfill("watch", submit(folder, variables), folder=folder, variables=variables)[0] == 0
    scraped = httpx.get(
        f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
    ).raise_for_status()
    samples = [one for family in text_string_to_metric_families(scraped.text) for one in family.samples]
    found = {(one.name, *sorted(one.labels.values())): one.value for one in samples}
    assert found["backfill_requests_total", "answered", "null"] >= 6
    assert found["backfill_tokens_total", "completion", "null"] > 0
    assert found["backfill_batches", "completed"] >= 1
    assert found["backfill_batches", "in_progress"] == 0


def test_the_server_s_own_words_are_shown(folder: Path, variables: dict[str, str]) -> None:
    code, out, err = backfill("status", "none", "--json", folder=folder, variables=variables)
    assert code == 2
    assert err == "error: No such batch: none. `backfill list` shows those of this key.\n"
    assert json.loads(out)["code"] == "not_found"
    code, _, err = backfill("list", folder=folder, variables=variables | {"BACKFILL_API_KEY": ""})
    assert code == 2
    assert err.startswith("error: No API key was sent.")
    assert "BACKFILL_API_KEY" in err
    wrong = variables | {"OTHER_KEY": "wrong"}
    code, _, err = backfill("list", "--api-key-env", "OTHER_KEY", folder=folder, variables=wrong)
    assert (code, err) == (
        2,
        "error: The API key is not known to this server. BACKFILL_API_KEY or --api-key-env gives another.\n",
    )


def test_no_server_is_said_in_one_line(tmp_path: Path) -> None:
    with NullEngine() as gone:
        url = gone.url
    code, _, err = backfill("list", "--url", url, folder=tmp_path)
    assert code == 2
    assert err.startswith(f"error: Nothing answers at {url}; is `backfill serve` running?")
    assert len(err.splitlines()) == 1


def test_another_server_is_told_from_ours(tmp_path: Path) -> None:
    with NullEngine() as other:
        code, _, err = backfill("list", "--url", other.url, folder=tmp_path)
    assert (code, err) == (2, "error: no such place\n")


def test_a_batch_that_waits_says_why(tmp_path: Path, folder: Path) -> None:
    with NullEngine() as engine, BackfillServer(tmp_path / "data", engine.url) as server:
        variables = {"BACKFILL_URL": server.url}
        port = engine.port
        engine.kill()
        batch_id = submit(folder, variables)
        with CommandLine("watch", batch_id, folder=folder, variables=variables) as watch:
            watch.wait_for(lambda it: "waiting: engine null: " in it.err)
            code, out, _ = backfill("status", batch_id, folder=folder, variables=variables)
            assert code == 0
            assert re.search(r"^waiting +since \S+: engine null: .* \[engine_unavailable\]$", out, re.MULTILINE)
            with NullEngine(port=port):
                assert watch.wait() == 0
        code, out, _ = backfill("status", batch_id, folder=folder, variables=variables)
        assert "waiting" not in out


def test_what_failed_for_one_reason_runs_again(engine: NullEngine, folder: Path, variables: dict[str, str]) -> None:
    engine.behave(faults={marker_of(1): ["400"], marker_of(2): ["500"] * 5, marker_of(3): ["500"] * 5})
    batch_id = submit(folder, variables)
    code, _, _ = backfill("watch", batch_id, folder=folder, variables=variables)
    assert code == 1
    engine.behave(faults=None)
    code, out, _ = backfill("failures", batch_id, folder=folder, variables=variables)
    assert code == 0
    assert "      2  server_error" in out
    assert f"backfill retry {batch_id} --group " in out
    code, out, err = backfill("retry", batch_id, "--reason", "server_error", folder=folder, variables=variables)
    assert (code, err) == (0, "2 requests run again\n")
    code, _, err = backfill("watch", out.strip(), folder=folder, variables=variables)
    assert (code, "COMPLETED: 2 answered, 0 failed" in err) == (0, True)
    code, _, err = backfill("failures", out.strip(), folder=folder, variables=variables)
    assert (code, err) == (0, "no request failed\n")
    code, _, err = backfill("retry", batch_id, "--reason", "nothing", folder=folder, variables=variables)
    assert code == 2
    assert "Codes of those that failed: " in err


def test_what_the_server_does_is_shown_at_a_glance(engine: NullEngine, folder: Path, variables: dict[str, str]) -> None:
    engine.behave(hold=True)
    batch_id = submit(folder, variables)
    engine.wait_for(lambda stats: stats["in_flight"] > 0)
    code, out, err = backfill("top", folder=folder, variables=variables)
    assert (code, err) == (0, "")
    assert "null" in out
    assert re.search(rf"{batch_id[-12:]}  in_progress  ░{{20}}  0/6", out)
    engine.behave(hold=False)
    backfill("watch", batch_id, folder=folder, variables=variables)
    code, out, _ = backfill("top", "--once", folder=folder, variables=variables)
    assert re.search(rf"{batch_id[-12:]}  completed    █{{20}}  6/6", out)


def test_the_live_view_ends_with_ctrl_c(server: BackfillServer, variables: dict[str, str]) -> None:
    master, slave = pty.openpty()
    environment = os.environ | variables | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-m", "backfill", "top", "--every", "0.2"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        try:
            os.close(slave)
            read_until(master, server.url.encode())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(master)


def read_until(terminal: int, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, seen
        seen += os.read(terminal, 65536)


def test_a_batch_is_paused_and_resumed(engine: NullEngine, folder: Path, variables: dict[str, str]) -> None:
    engine.behave(hold=True)
    batch_id = submit(folder, variables)
    engine.wait_for(lambda stats: stats["in_flight"] == 6)
    code, out, err = backfill("pause", batch_id, folder=folder, variables=variables)
    assert (code, out) == (0, "")
    assert f"paused; `backfill resume {batch_id}` goes on with it. Its deadline is still 2" in err
    assert "PAUSED" in backfill("status", batch_id, folder=folder, variables=variables)[1]
    assert "[paused]" in backfill("status", batch_id, folder=folder, variables=variables)[1]
    listed = backfill("list", folder=folder, variables=variables)[1].splitlines()
    assert any(line.startswith(batch_id) and "PAUSED" in line for line in listed)
    assert "paused " in backfill("top", "--once", folder=folder, variables=variables)[1]
    code, out, err = backfill("resume", batch_id, folder=folder, variables=variables)
    assert (code, out) == (0, "")
    assert "it goes on" in err
    engine.behave(hold=False)
    assert backfill("watch", batch_id, folder=folder, variables=variables)[0] == 0
    code, _, err = backfill("pause", batch_id, folder=folder, variables=variables)
    assert code == 2
    assert "A batch that is completed cannot be paused" in err


def test_a_batch_is_shown_with_its_name(folder: Path, variables: dict[str, str]) -> None:
    batch_id = submit(folder, variables, "--name", "nightly run")
    code, out, _ = backfill("status", batch_id, folder=folder, variables=variables)
    assert (code, "name       nightly run" in out) == (0, True)
    code, out, _ = backfill("list", folder=folder, variables=variables)
    (line,) = [line for line in out.splitlines() if line.startswith(batch_id)]
    assert (code, line.endswith("nightly run")) == (0, True)
    code, _, err = backfill("submit", "in.jsonl", "--name", "x" * 257, folder=folder, variables=variables)
    assert code == 2
    assert "name" in err


def test_the_end_of_a_batch_is_told_where_submit_says(
    engine: NullEngine, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"webhooks__allow": '["127.0.0.1/32"]', "webhooks__allow_http": "true"}
    with (
        WebhookReceiver() as receiver,
        BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as server,
    ):
        variables = {"BACKFILL_URL": server.url}
        code, out, _ = backfill("webhook-secret", folder=folder, variables=variables)
        assert code == 0
        receiver.secret = out.strip()
        batch_id = submit(folder, variables, "--webhook", receiver.url)
        (message,) = receiver.wait_for(1)
        assert message.message_id == f"msg_{batch_id}"
        told = backfill("status", batch_id, folder=folder, variables=variables)[1]
        assert f"webhook    {receiver.url.partition('?')[0]}\n" in told
        assert "hidden" not in told
        code, _, err = backfill(
            "submit", "in.jsonl", "--webhook", "http://10.0.0.1/a", folder=folder, variables=variables
        )
        assert code == 2
        assert "webhook_url is not at a public address" in err
