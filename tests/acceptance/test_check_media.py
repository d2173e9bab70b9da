"""`backfill check` of requests with pictures and clips: what they name is counted, and fetched if one wants."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command_line import backfill
from tests.support.media import data_url, png


class _Pictures(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = self.path.startswith("/good.png")
        self.send_response(200 if found else 404)
        data = png() if found else b""
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> list[str]:
    """Paths that were asked for."""
    return []


@pytest.fixture
def server(asked: list[str]) -> Iterator[str]:
    handler = type("Handler", (_Pictures,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def line(number: int, *urls: object) -> str:
    parts = [
        {"type": "text", "text": "What is it?"},
        *({"type": "image_url", "image_url": {"url": url}} for url in urls),
    ]
    return json.dumps({"custom_id": str(number), "body": {"model": "m", "messages": [{"content": parts}]}})


def write(folder: Path, *lines: str) -> None:
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "here.png").write_bytes(png())
    (folder / "backfill.toml").write_text('[media]\nallow = ["127.0.0.1/32"]\nallow_http = true\n')


def check(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = backfill("check", "in.jsonl", "--json", *options, folder=folder)
    return code, json.loads(out)


def test_what_is_named_is_counted_and_not_fetched(tmp_path: Path, server: str, asked: list[str]) -> None:
    link = f"{server}/good.png"
    write(tmp_path, line(1, link, link), line(2, data_url(png()), "here.png"), line(3), line(4, "file-1"), line(5, 7))
    code, told = check(tmp_path)
    assert (code, told["pictures"], told["clips"], told["links"]) == (1, 5, 0, 2)
    assert [(problem["line"], problem["code"]) for problem in told["request_problems"]] == [(5, "invalid_media")]
    assert asked == []
    code, out, err = backfill("check", "in.jsonl", folder=tmp_path)
    assert "5 pictures, of 2 links or paths and 1 uploaded file\n" in out
    assert "1 request would not be sent; the other 4 can be run\n" in out
    assert err == ""


def test_what_cannot_be_had_is_told_of_each_line(tmp_path: Path, server: str, asked: list[str]) -> None:
    gone = f"{server}/gone.png?key=secret"
    write(
        tmp_path,
        line(1, f"{server}/good.png", "here.png"),
        "",
        line(2, gone),
        line(3, gone, "gone.png"),
        line(4, f"{server}/good.png", data_url(png(9000, 9000))),
        line(5, "file-1"),
    )
    code, told = check(tmp_path, "--fetch")
    assert code == 1
    assert [problem["line"] for problem in told["request_problems"]] == [3, 4, 5]
    words = [problem["message"] for problem in told["request_problems"]]
    assert "gone.png" in words[0]
    assert "secret" not in str(words)
    assert "9,000 x 9,000" in words[2]
    assert sorted(path.partition("?")[0] for path in asked) == ["/gone.png", "/good.png"]
    write(tmp_path, line(1, f"{server}/good.png", "here.png"))
    assert check(tmp_path, "--fetch")[0] == 0


def test_clips_are_checked_with_their_settings(tmp_path: Path) -> None:
    bodies = [
        {"model": "m", "file": "https://example.com/a.mp3", "prompt": "x" * 10_000},
        {"model": "m", "file": "a.mp3", "temperature": 7},
        {"model": "m", "file": "a.mp3", "file_url": "b.mp3"},
        {"model": "m"},
    ]
    lines = [json.dumps({"custom_id": str(i), "method": "FILE", "body": body}) for i, body in enumerate(bodies)]
    write(tmp_path, *lines)
    code, told = check(tmp_path, "--endpoint", "/v1/audio/transcriptions")
    assert (code, told["clips"], told["pictures"], told["links"]) == (1, 2, 0, 2)
    # A minute each, before anything is known of a clip, and nothing for what is written beside it.
    assert told["token_estimate"] == 4 * 60 * 25
    assert [problem["param"] for problem in told["request_problems"]] == [
        "body.temperature",
        "body.file_url",
        "body.file",
    ]


def test_standard_input_is_not_fetched(tmp_path: Path) -> None:
    code, _, err = backfill("check", "-", "--fetch", folder=tmp_path, stdin=line(1, "x.png").encode())
    assert code == 2
    assert "--fetch needs a file" in err
