"""The process between Backfill and a server that it manages: `python -m backfill.engines.managed.host COMMAND…`.

Servers such as vLLM have processes of their own and do not notice when whoever started them is gone. This one does:
when its stdin closes or it is sent SIGTERM, it asks the server to end, and after a while kills what is left of it.
Nor does anything stay, and keep a GPU's memory, when the server ends by itself.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Final

__all__ = ["GRACE_S", "main"]

GRACE_S: Final = 20.0
"""Between asking the server to end and killing it."""

_PR_SET_PDEATHSIG = 1
_COMMAND_NOT_RUN = 127


def main(command: list[str]) -> int:
    """Run the command until it ends or is ended; its exit status, 128 and the number for a signal."""
    # Held back until there is a server to hand it to.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        # A session of its own is a group of its own: the server's processes can be ended together.
        server = subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_prepare_server,  # noqa: PLW1509 - no thread runs yet
        )
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _COMMAND_NOT_RUN
    signal.signal(signal.SIGTERM, lambda *_: _ask_to_end(server))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
    # Its exit is not taken yet, so that its number, which is the group's too, cannot pass to another process.
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    _kill_group(server.pid)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _prepare_server() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sys.platform == "linux":
        # If this process is killed, the server is at least asked to end.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch_stdin(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _ask_to_end(server)


def _ask_to_end(server: subprocess.Popen[bytes]) -> None:
    if server.returncode is None:
        os.kill(server.pid, signal.SIGTERM)
        kill = threading.Timer(GRACE_S, _kill_group, args=(server.pid,))
        kill.daemon = True
        kill.start()


def _kill_group(group: int) -> None:
    # Either says that nobody is left in it; macOS says the second where only the ended leader is.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
