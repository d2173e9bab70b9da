"""Connections that hang: a server that stands still ends none of them, and the system goes on acknowledging bytes.

If a caller has waited for some seconds, the server is asked for a new connection. If it does not give one in time, all
connections that wait are broken, so that their callers hear of it, and until it answers again a caller is refused at
once instead of waiting in his turn. A server that is merely slow, or makes callers wait for each other, gives one.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

__all__ = ["HangWatch"]

_PATIENCE_S = 8.0
_TICK_S = 1.0
# A thread that has nothing to look after ends; the next caller starts another one.
_IDLE_TICKS = 10


class HangWatch:
    """Looks after the connections of some engines, in a thread that lives while they are used."""

    def __init__(self, is_silent: Callable[[], bool], refuse: Callable[[], Exception]) -> None:
        """`is_silent`: whether the server gives no connection in time; blocks until that is known.

        `refuse` makes the driver's error that says so.
        """
        self._is_silent = is_silent
        self._refuse = refuse
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Any]] = {}
        self._thread: threading.Thread | None = None
        self._is_hanging = False

    def watch(self, engine: Engine) -> None:
        """Look after all connections of an engine from now on."""
        event.listen(engine, "do_connect", self._note_connect)
        event.listen(engine, "checkout", self._note_checkout)
        event.listen(engine, "checkin", self._note_checkin)

    @contextmanager
    def over(self, connection: Any) -> Iterator[None]:
        """Look after a connection that no pool has yet, while something is asked on it."""
        self._add(id(connection), connection)
        try:
            yield
        finally:
            self._remove(id(connection))

    def _note_connect(self, _dialect: object, _record: object, _arguments: object, _options: object) -> None:
        if self._is_hanging:
            raise self._refuse()

    def _note_checkout(self, connection: Any, record: object, _proxy: object) -> None:
        if self._is_hanging:
            # The pool then asks for a new one, which is refused.
            raise DisconnectionError
        self._add(id(record), connection)

    def _note_checkin(self, _connection: object, record: object) -> None:
        self._remove(id(record))

    def _add(self, key: int, connection: Any) -> None:
        with self._lock:
            self._waiting[key] = time.monotonic(), connection
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="database watch")
                self._thread.start()

    def _remove(self, key: int) -> None:
        with self._lock:
            self._waiting.pop(key, None)

    def _run(self) -> None:
        while self._has_work():
            time.sleep(_TICK_S)
            if self._is_hanging or self._has_waited_long():
                self._is_hanging = self._is_silent()
            if self._is_hanging:
                self._break_all()

    def _has_work(self) -> bool:
        """Whether there is something to look after, or was a moment ago; else the thread is forgotten."""
        for _ in range(_IDLE_TICKS):
            with self._lock:
                if self._waiting or self._is_hanging:
                    return True
            time.sleep(_TICK_S)
        with self._lock:
            if self._waiting:
                return True
            self._thread = None
            return False

    def _has_waited_long(self) -> bool:
        now_s = time.monotonic()
        with self._lock:
            return any(now_s - since_s > _PATIENCE_S for since_s, _ in self._waiting.values())

    def _break_all(self) -> None:
        with self._lock:
            for _, connection in self._waiting.values():
                # It may be closed by now.
                with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as shared:
                    shared.shutdown(socket.SHUT_RDWR)
