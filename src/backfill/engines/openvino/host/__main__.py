"""The child process in which OpenVINO runs: `python -m backfill.engines.openvino.host SETTINGS`, settings as JSON.

It serves OpenAI's chat and text completions on a free local port and says so in one line on stdout: {"url": …}, or
{"error": …} where the model cannot be loaded. stdin is the parent's hold on it: when that closes, for whatever
reason, the process ends. One thread does everything: see `openvino_pipeline`.
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
from backfill.engines.openvino.host.handlers import make_app
from backfill.engines.openvino.host.model import Model
from backfill.engines.openvino.host.pipeline import EngineFailed, Scheduler, shorten
from backfill.engines.openvino.messages import HostSettings, Ready

__all__ = ["main"]

_FAREWELL_S: Final = 5.0


def main(arguments: list[str]) -> None:
    """Serve until the parent, a signal or a failure of the engine ends it; does not return."""
    settings = msgspec.json.decode(arguments[0], type=HostSettings)
    key = take_key()
    end_with_parent()
    # The library may print on stdout too; the ready line must be alone there.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        model = Model(settings)
    except OSError as error:
        _tell(answer, Ready(error=f"{settings.model}: {error.strerror or error}"))
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to the parent as words
        _tell(answer, Ready(error=shorten(error)))
        os._exit(1)
    _run(_serve(model, settings, key, answer))
    os._exit(1)


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


async def _serve(model: Model, settings: HostSettings, key: str, answer: int) -> None:
    scheduler = Scheduler(model.pipeline, settings.concurrency)
    # A client that hangs up cancels its handler, and the handler its computation.
    runner = web.AppRunner(make_app(model, scheduler, settings.alias, key), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=_FAREWELL_S)
    await site.start()
    host, port = runner.addresses[0][:2]
    _tell(answer, Ready(url=f"http://{host}:{port}", context_tokens=model.context_tokens))
    try:
        await scheduler.run()
    except EngineFailed as failure:
        sys.stderr.write(f"{failure}\n")
        # Those that wait still get their answer; the parent starts another process.
        await runner.cleanup()


def _tell(answer: int, ready: Ready) -> None:
    os.write(answer, msgspec.json.encode(ready) + b"\n")
    os.close(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
