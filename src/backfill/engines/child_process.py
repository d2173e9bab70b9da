"""What every child process that runs an engine does so that it never outlives its parent."""

import ctypes
import os
import signal
import sys
import threading

__all__ = ["end_with_parent"]

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End when the parent does, even by SIGKILL: by the kernel where it offers that, and by the end of stdin.

    From here on stdin is the parent's hold on this process, and SIGTERM ends it at once. Both end it by `os._exit`,
    because an engine's library may crash when the interpreter tears it down while requests are computed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_watch_stdin, daemon=True).start()


def _watch_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)
