"""A receiver of webhooks: a real HTTP server that checks signatures as the specification's own library does."""

import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from standardwebhooks import Webhook

__all__ = ["SECRET", "Message", "WebhookReceiver"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_TIMEOUT_S = 30.0


class Message(NamedTuple):
    """One request whose signature is good."""

    message_id: str
    content: dict[str, Any]
    body: bytes


class WebhookReceiver:
    """Answers each request with the next of `statuses`, then with 200; a context manager.

    A status of 0 means: never answer. `messages` holds what came, in order; a bad signature raises in `check`.
    """

    def __init__(self, statuses: Iterable[int] = (), *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.secret = SECRET
        self._statuses = list(statuses)
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self.messages: list[Message] = []
        self.faults: list[Exception] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take(dict(self.headers), body)
                if not status:
                    receiver.wait_for_end()
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                if 300 <= status < 400:
                    self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_port}/hooks?token=hidden"
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        assert self.faults == []

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """Note a request, and give the status of its answer."""
        with self._changed:
            try:
                content = Webhook(self.secret).verify(body, headers)
                self.messages.append(Message(headers["webhook-id"], content, body))
            except Exception as error:  # noqa: BLE001 - told at the end, in the thread of the test
                self.faults.append(error)
            self._changed.notify_all()
            return self._statuses.pop(0) if self._statuses else 200

    def wait_for_end(self) -> None:
        """Return when the receiver ends."""
        self._ended.wait()

    def wait_for(self, count: int) -> list[Message]:
        """The messages, once there are as many; blocks."""
        deadline = time.monotonic() + _TIMEOUT_S
        with self._changed:
            while len(self.messages) < count:
                assert self._changed.wait(deadline - time.monotonic()), f"{len(self.messages)} messages came"
            return list(self.messages)
