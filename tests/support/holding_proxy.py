"""A proxy in front of a server that keeps one request to itself, so that its client can be killed just there."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

__all__ = ["HoldingProxy"]

_When = Literal["before", "after"]
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length"}


class HoldingProxy:
    """A context manager. `hold`: the `number`th POST (from 1) whose path ends so gets no answer.

    "before": the server never hears of it; "after": it does all that is asked, and its answer is lost.
    """

    def __init__(self, url: str, path_end: str, number: int, when: _When) -> None:
        self._target = urlsplit(url)
        self._path_end, self._number, self._when = path_end, number, when
        self._seen = 0
        self._lock = threading.Lock()
        self._let_go = threading.Event()
        self.held = threading.Event()
        """The request is there, and, with "after", done."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.pass_on(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - so the library calls them

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Send a request on, and its answer back."""
        body = _read_body(request)
        is_held = self._is_held(request)
        if is_held and self._when == "before":
            self._hold(request)
            return
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if is_held:
            self._hold(request)
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                request.send_header(name, value)
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _is_held(self, request: BaseHTTPRequestHandler) -> bool:
        if request.command != "POST" or not request.path.endswith(self._path_end):
            return False
        with self._lock:
            self._seen += 1
            return self._seen == self._number

    def _hold(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        self.held.set()
        self._let_go.wait(60)


def _read_body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("transfer-encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("content-length") or 0))
    pieces = []
    while size := int(request.rfile.readline(), 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(pieces)
