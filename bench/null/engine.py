"""The null engine: answers as an OpenAI-style server would, at once and always the same.

It has its own process and speaks HTTP/1.1 by hand, so that whoever calls it measures the caller and not the engine.
Run as `python -m bench.null.engine`; `bench.null.process.NullEngine` does so for tests and benches. One JSON line
on stdout tells the address.

    POST /v1/chat/completions, /v1/completions, /v1/embeddings    the fixed answer, or what the behaviour says
    GET  /health, /v1/models                                      as such servers have them
    GET  /stats                                                   counts of what came in and went out
    GET  /log                                                     [event, marker, monotonic_ns] in order
    POST /behave                                                  change the behaviour (`Behaviour`) from now on

A request may carry a marker: a JSON string that begins with `marker-`; what follows, up to the first character that is
no letter, digit, `_` or `-`, names the request in the log and in scripted faults. The events are `received`;
`answered`, once the whole answer is with the operating system or its buffer; and `dropped`, if the connection went
away first. Requests on one connection are taken one after the other, also when they are sent ahead.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from bench.null.answers import ANSWERS, MODEL, Behaviour, choose_response, encode, make_error, make_response
from bench.null.places import Places

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # no uvloop on Windows
    from asyncio import new_event_loop

__all__ = ["Connection", "Ledger", "main"]

_MARKER = re.compile(rb'"marker-([0-9A-Za-z_-]*)')
_HEAD_BYTES_MAX = 64 * 1024


class Ledger:
    """What came in and went out, for all connections together.

    With a path, every event is also appended to that file, one JSON array a line, in one write for each turn of the
    event loop: what was written survives a kill of the process.
    """

    def __init__(self, path: str | None = None) -> None:
        self.received = 0
        self.answered = 0
        self.dropped = 0
        self.peak_in_flight = 0
        self.first_received_at: float | None = None
        self.last_answered_at: float | None = None
        self.log: list[tuple[str, str, int]] = []
        self._written = 0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else None

    @property
    def in_flight(self) -> int:
        """Requests that are received and neither answered nor dropped."""
        return self.received - self.answered - self.dropped

    def note_received(self, marker: str) -> None:
        """A whole request is here."""
        self.received += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if self.first_received_at is None:
            self.first_received_at = time.time()
        self._note("received", marker)

    def note_answered(self, marker: str) -> None:
        """A whole answer went out."""
        self.answered += 1
        self.last_answered_at = time.time()
        self._note("answered", marker)

    def note_dropped(self, marker: str) -> None:
        """A connection went away before its answer."""
        self.dropped += 1
        self._note("dropped", marker)

    def stats(self) -> dict[str, float | None]:
        """The counts, as /stats shows them."""
        names = ("received", "answered", "dropped", "in_flight", "peak_in_flight")
        counts: dict[str, float | None] = {name: getattr(self, name) for name in names}
        return {**counts, "first_received_at": self.first_received_at, "last_answered_at": self.last_answered_at}

    def flush(self) -> None:
        """Append what is new to the file, if there is one."""
        if self._file is not None:
            new = self.log[self._written :]
            self._written = len(self.log)
            os.write(self._file, b"".join(encode(entry) + b"\n" for entry in new))

    def _note(self, event: str, marker: str) -> None:
        self.log.append((event, marker, time.monotonic_ns()))
        # The first entry after a flush asks for the next one.
        if self._file is not None and len(self.log) == self._written + 1:
            asyncio.get_running_loop().call_soon(self.flush)


class _Head(NamedTuple):
    method: bytes
    path: bytes
    body_at: int
    end: int
    keep_alive: bool


class _BadRequestError(Exception):
    """The connection cannot go on: answer `response` and close it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = make_error(status, message, "Connection: close\r\n")


def _parse_head(data: bytes) -> _Head | None:
    """The request at the start of `data`, or None while its head is not all here."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        if len(data) > _HEAD_BYTES_MAX:
            raise _BadRequestError(431, "the head is too long")
        return None
    line_end = data.find(b"\r\n")
    words = data[:line_end].split(b" ")
    if len(words) != 3:
        raise _BadRequestError(400, "the first line is not a request line")
    lines = data[line_end : head_end + 2].lower()
    length = 0
    at = lines.find(b"\r\ncontent-length:")
    if at >= 0:
        digits = lines[at + 17 : lines.find(b"\r\n", at + 17)].strip()
        if not digits.isdigit():
            raise _BadRequestError(400, "the content-length is not a number")
        length = int(digits)
    elif words[0] == b"POST":
        raise _BadRequestError(411, "a body needs a content-length")
    body_at = head_end + 4
    return _Head(words[0], words[1], body_at, body_at + length, b"\r\nconnection: close\r\n" not in lines)


class Connection(asyncio.Protocol):
    """One client's connection; at most one request at a time is under way."""

    def __init__(self, ledger: Ledger, behaviour: Behaviour, held: list[Callable[[], None]], places: Places) -> None:
        self._ledger = ledger
        self._behaviour = behaviour
        self._held = held
        self._places = places
        self._has_place = False
        self._data = b""
        self._needed = 0
        self._keep_alive = True
        self._marker: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        # uvloop's transports are such by behaviour only, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer what is whole."""
        self._data = self._data + data if self._data else data
        if self._marker is None and len(self._data) >= self._needed:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the request under way."""
        self._data = b""
        if self._timer is not None:
            self._timer.cancel()
        if self._marker is not None:
            marker, self._marker = self._marker, None
            self._ledger.note_dropped(marker)
        self._leave_place()

    def _advance(self) -> None:
        """Take whole requests off the data until one has to wait."""
        while self._data and self._marker is None:
            try:
                head = _parse_head(self._data)
            except _BadRequestError as error:
                self._data = b""
                self._transport.write(error.response)
                self._transport.close()
                return
            self._needed = head.end if head else 0
            if head is None or len(self._data) < head.end:
                return
            body = self._data[head.body_at : head.end]
            self._data = self._data[head.end :]
            self._needed = 0
            self._keep_alive = head.keep_alive
            if head.method == b"POST" and head.path in ANSWERS:
                self._receive(head.path, body)
            else:
                self._write(self._control(head.method, head.path, body))

    def _receive(self, path: bytes, body: bytes) -> None:
        found = _MARKER.search(body)
        self._marker = found[1].decode() if found else ""
        self._ledger.note_received(self._marker)
        if self._behaviour.is_plain:
            self._answer(ANSWERS[path].response)
            return
        fault = self._behaviour.take_fault(self._marker)
        if self._behaviour.hold:
            self._held.append(lambda: self._queue(path, fault))
        else:
            self._queue(path, fault)

    def _queue(self, path: bytes, fault: str) -> None:
        def begin() -> bool:
            # Its client may have gone while it waited.
            self._has_place = self._marker is not None
            if self._has_place:
                self._delay(path, fault)
            return self._has_place

        self._places.enter(begin)

    def _leave_place(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.leave()

    def _delay(self, path: bytes, fault: str) -> None:
        if fault == "hang":
            return
        if self._behaviour.delay_ms:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._behaviour.delay_ms / 1000, self._carry_out, path, fault)
        else:
            # Not at once: `_advance` may be on the stack, and a held request is released from another connection.
            asyncio.get_running_loop().call_soon(self._carry_out, path, fault)

    def _carry_out(self, path: bytes, fault: str) -> None:
        if self._marker is None:
            return
        if fault == "close":
            self._transport.close()
            return
        told = self._behaviour
        self._answer(choose_response(path, fault, self._marker, echo=told.echo, padding_bytes=told.padding_bytes))
        self._advance()

    def _answer(self, response: bytes) -> None:
        marker, self._marker = cast("str", self._marker), None
        self._write(response)
        self._ledger.note_answered(marker)
        self._leave_place()

    def _write(self, response: bytes) -> None:
        self._transport.write(response)
        if not self._keep_alive:
            self._transport.close()

    def _control(self, method: bytes, path: bytes, body: bytes) -> bytes:
        answers: dict[tuple[bytes, bytes], Callable[[], Any]] = {
            (b"GET", b"/health"): lambda: {"status": "ok"},
            (b"GET", b"/v1/models"): lambda: {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
            (b"GET", b"/stats"): self._ledger.stats,
            (b"GET", b"/log"): lambda: self._ledger.log,
            (b"POST", b"/behave"): lambda: self._behave(body),
        }
        answer = answers.get((method, path))
        if answer is None:
            return make_error(404, "no such place")
        try:
            return make_response(200, encode(answer()))
        except ValueError as error:
            return make_error(400, str(error))

    def _behave(self, body: bytes) -> dict[str, Any]:
        self._behaviour.update(json.loads(body))
        if not self._behaviour.hold:
            for release in self._held:
                release()
            self._held.clear()
        self._places.fill()
        return vars(self._behaviour)


async def _serve(port: int, log_path: str | None, behaviour: Behaviour, *, exit_with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if exit_with_parent:
        await loop.connect_read_pipe(lambda: _Watch(stopped), sys.stdin)
    ledger = Ledger(log_path)
    held: list[Callable[[], None]] = []
    places = Places(behaviour)
    server = await loop.create_server(
        lambda: Connection(ledger, behaviour, held, places), "127.0.0.1", port, backlog=4096
    )
    chosen = server.sockets[0].getsockname()[1]
    print(json.dumps({"ready": True, "url": f"http://127.0.0.1:{chosen}"}), flush=True)
    await stopped.wait()
    server.close()
    ledger.flush()


class _Watch(asyncio.Protocol):
    """Tells when whoever holds the other end of stdin is gone."""

    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._stopped.set()


def main() -> None:
    """Serve until SIGTERM, or until stdin ends if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.null.engine", description="An engine that costs nothing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay-ms", type=float, default=0, help="how long each answer takes")
    parser.add_argument("--behave", type=json.loads, default={}, metavar="JSON", help="the behaviour at the start")
    parser.add_argument("--log", metavar="PATH", help="append every event to this file")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    behaviour = Behaviour(delay_ms=options.delay_ms)
    try:
        behaviour.update(options.behave)
    except ValueError as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(options.port, options.log, behaviour, exit_with_parent=options.exit_with_parent))


if __name__ == "__main__":
    main()
