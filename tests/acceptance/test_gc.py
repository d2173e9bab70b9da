"""`backfill gc`, beside a server and without one."""

import json
from pathlib import Path

from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

# A ten-thousandth of a second: whatever there is has that age.
SOON = "0.000000001"


def test_what_would_go_is_listed_beside_a_server_and_goes_without_one(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    config = tmp_path / "ages.toml"
    config.write_text(f"[retention]\ninputs_days = {SOON}\n")
    arguments = ("gc", "--config", str(config), "--data-dir", str(data_dir))
    with BackfillServer(data_dir, "http://127.0.0.1:1") as server:
        client = Client(server)
        old, read = client.upload(request_lines(2)), client.upload(request_lines(3))
        client.create(read)
        code, stdout, _ = backfill(*arguments, "--dry-run", "--json", folder=tmp_path)
        assert code == 0
        found = json.loads(stdout)
        assert [(each["kind"], each["name"]) for each in found["removed"]] == [("input", old)]
        assert found["size_bytes"] > len(request_lines(2))
        assert client.download(old)
    for more in (("--dry-run",), ()):
        code, stdout, _ = backfill(*arguments, *more, folder=tmp_path)
        assert (code, old in stdout) == (0, True)
    _, stdout, _ = backfill(*arguments, "--json", folder=tmp_path)
    assert json.loads(stdout)["removed"] == []
    assert [path.name for path in (data_dir / "blobs" / "files").iterdir()] == [read]


def test_a_server_that_runs_is_asked(tmp_path: Path) -> None:
    data_dir, other_dir = tmp_path / "data", tmp_path / "other"
    engine = "http://127.0.0.1:1"
    with (
        BackfillServer(data_dir, engine, retention__inputs_days=SOON) as server,
        BackfillServer(other_dir, engine, retention__inputs_days=SOON) as other,
    ):
        client, stranger = Client(server), Client(other)
        first, foreign = client.upload(request_lines(2)), stranger.upload(request_lines(2))
        asked = {"BACKFILL_URL": server.url}
        # The server at that address works elsewhere: nothing goes, neither here nor there.
        code, _, stderr = backfill(
            "gc", "--data-dir", str(data_dir), folder=tmp_path, variables={"BACKFILL_URL": other.url}
        )
        assert (code, "another data directory" in stderr) == (2, True)
        assert client.download(first)
        assert stranger.download(foreign)
        code, stdout, _ = backfill("gc", "--data-dir", str(data_dir), "--json", folder=tmp_path, variables=asked)
        assert (code, [each["name"] for each in json.loads(stdout)["removed"]]) == (0, [first])
        second = client.upload(request_lines(2))
        for more in (("--dry-run",), ()):
            code, stdout, _ = backfill("gc", "--url", server.url, *more, folder=tmp_path)
            assert (code, second in stdout, first in stdout) == (0, True, False)
        code, _, stderr = backfill("gc", "--url", "http://127.0.0.1:1", folder=tmp_path)
        assert (code, "Nothing answers" in stderr) == (2, True)
        assert stranger.download(foreign)


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    code, _, stderr = backfill("gc", "--data-dir", str(tmp_path / "none"), folder=tmp_path)
    assert (code, "no data directory" in stderr) == (2, True)
    assert not (tmp_path / "none").exists()
