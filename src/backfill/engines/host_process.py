"""What every child process that runs an engine does: it tells its parent how it started, and never outlives it."""

import ctypes
import os
import signal
import sys
import threading
from typing import Final

import msgspec

__all__ = ["KEY_VARIABLE", "ReadyLine", "end_with_parent", "take_key"]

KEY_VARIABLE: Final = "BACKFILL_ENGINE_KEY"
"""Where a child finds what requests to it must bring: other users cannot see a process's environment."""

_PR_SET_PDEATHSIG = 1


class ReadyLine:
    """The one line on stdout. From here on all else that is printed goes to stderr: libraries print too."""

    def __init__(self) -> None:
        self._stdout = os.dup(1)
        os.dup2(2, 1)

    def send(self, ready: msgspec.Struct) -> None:
        """Tell the parent where the engine answers, or why it does not; once."""
        os.write(self._stdout, msgspec.json.encode(ready) + b"\n")
        os.close(self._stdout)


def end_with_parent() -> None:
    """End when the parent does, even by SIGKILL: by the kernel where it offers that, and by the end of stdin.

    From here on stdin is the parent's hold on this process, and SIGTERM ends it at once. Both end it by `os._exit`,
    because an engine's library may crash when the interpreter tears it down while requests are computed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_watch_stdin, daemon=True).start()


def take_key() -> str:
    """What requests must bring as a bearer token; no process that this one starts inherits it."""
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        sys.exit(f"{KEY_VARIABLE} is not set: Backfill starts this program, with a key that only it knows.")
    return key


def _watch_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)
