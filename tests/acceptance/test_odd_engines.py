"""`backfill run` on engines that answer 200 with something else than one would think."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command_line import backfill

QUICK = {"BACKFILL_DISPATCH__BACKOFF_S": "0.01", "BACKFILL_DISPATCH__TRIES": "3"}
Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an engine that gives its answers in turn, the last one for ever; gives its URL and notes the bodies."""
    servers = []

    def start_engine(*answers: bytes) -> str:
        waiting = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(waiting.pop(0) if len(waiting) > 1 else waiting[0])

            def do_GET(self) -> None:
                self.answer(b"{}")

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start_engine
    for server in servers:
        server.shutdown()
        server.server_close()


def run(folder: Path, url: str, custom_id: str = "a", *more: object, **body: Any) -> tuple[int, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    line = json.dumps({"custom_id": custom_id, "body": body}, ensure_ascii=False)
    (folder / "in.jsonl").write_text(line + "\n")
    arguments = ("run", "in.jsonl", "-o", "out.jsonl", "--engine", url, *more)
    code, _, err = backfill(*arguments, folder=folder, variables=QUICK)
    return code, err


def test_an_error_under_200_is_a_failure(tmp_path: Path, start: Start) -> None:
    code, err = run(tmp_path, start(b'{"error":{"message":"upstream is down","code":502}}'))
    assert code == 1
    assert "0 answered, 1 failed" in err
    error = json.loads((tmp_path / "out.errors.jsonl").read_text())["error"]
    assert error["message"].startswith("The engine answered HTTP 200 with error 502: upstream is down")
    assert "3 tries" in error["message"]


def test_an_error_under_200_is_tried_again(tmp_path: Path, start: Start) -> None:
    result = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}]}'
    url = start(b'{"error":{"message":"busy","type":"overloaded_error"}}', b"{}", result)
    code, err = run(tmp_path, url)
    assert code == 0
    assert "1 answered, 0 failed" in err


def test_a_refusal_under_200_is_the_lines_own(tmp_path: Path, start: Start) -> None:
    code, _ = run(tmp_path, start(b'{"error":{"message":"too long","code":"context_length_exceeded"}}'))
    assert code == 1
    error = json.loads((tmp_path / "out.errors.jsonl").read_text())["error"]
    assert error == {"message": "too long", "code": "context_length_exceeded"}


def test_a_result_is_one_line_for_every_reader(tmp_path: Path, start: Start) -> None:
    text = "one\u2028two\u2029three\x85four"
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    code, _ = run(tmp_path, start(json.dumps(answer, ensure_ascii=False).encode()), "id\u2028")
    assert code == 0
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    result = json.loads(line)
    assert result["custom_id"] == "id\u2028"
    assert result["response"]["body"] == answer


def test_text_that_is_no_unicode_is_kept(tmp_path: Path, start: Start) -> None:
    answer = b'{"choices":[{"message":{"content":"cut \xed\xa0\xbd"},"logprobs":[NaN]}]}'
    code, err = run(tmp_path, start(answer, b"{}"))
    assert (code, "1 answered, 0 failed" in err) == (0, True)
    [choice] = json.loads((tmp_path / "out.jsonl").read_text())["response"]["body"]["choices"]
    assert choice == {"message": {"content": "cut \ud83d"}, "logprobs": [None]}


def test_a_response_object_is_completed(tmp_path: Path, start: Start) -> None:
    url = start(b'{"object":"response","output":[{"type":"message"}],"usage":{"input_tokens":1,"output_tokens":1}}')
    code, _ = run(tmp_path, url, "a", "--endpoint", "/v1/responses", messages=None, input="hi", tool_choice="none")
    assert code == 0
    body = json.loads((tmp_path / "out.jsonl").read_text())["response"]["body"]
    assert (body["tool_choice"], body["tools"], body["parallel_tool_calls"]) == ("none", [], True)
    assert body["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
