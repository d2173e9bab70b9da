"""The child process in which Whisper runs: `python -m backfill.engines.speech.host SETTINGS`, settings as JSON.

It serves OpenAI's two audio routes on a free local port and says so in one line on stdout: {"url": …}, or {"error": …}
where the model cannot be loaded. stdin is the parent's hold on it: when that closes, for whatever reason, the process
ends.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final

import msgspec
import uvloop
from aiohttp import web

from backfill.engines.host_process import end_with_parent, take_key
from backfill.engines.speech.host.handlers import make_app
from backfill.engines.speech.host.model import Model
from backfill.engines.speech.messages import HostSettings, Ready

__all__ = ["main"]

_FAREWELL_S: Final = 5.0
_MESSAGE_LENGTH: Final = 300


def main(arguments: list[str]) -> None:
    """Serve until the parent or a signal ends it; does not return."""
    settings = msgspec.json.decode(arguments[0], type=HostSettings)
    key = take_key()
    end_with_parent()
    # The library may print on stdout too; the ready line must be alone there.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        model = Model(settings)
    except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to the parent as words
        words = " ".join(str(error).split())[:_MESSAGE_LENGTH]
        _tell(answer, Ready(error=words or type(error).__name__))
        os._exit(1)
    _run(_serve(model, settings, key, answer))
    os._exit(1)


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


async def _serve(model: Model, settings: HostSettings, key: str, answer: int) -> None:
    # A client that hangs up cancels its handler, and the handler its work.
    runner = web.AppRunner(make_app(model, settings, key), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=_FAREWELL_S)
    await site.start()
    host, port = runner.addresses[0][:2]
    _tell(answer, Ready(url=f"http://{host}:{port}"))
    await asyncio.Event().wait()


def _tell(answer: int, ready: Ready) -> None:
    os.write(answer, msgspec.json.encode(ready) + b"\n")
    os.close(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
