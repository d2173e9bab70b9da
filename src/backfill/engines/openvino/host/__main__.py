"""The child process in which OpenVINO runs: `python -m backfill.engines.openvino.host SETTINGS`, settings as JSON.

It serves OpenAI's chat and text completions on a free local port and says so in one line on stdout: {"url": …}, or
{"error": …} where the model cannot be loaded. stdin is the parent's hold on it: when that closes, for whatever
reason, the process ends. One thread does everything: see `openvino_pipeline`.
"""

import os
import sys

import msgspec

from backfill.engines.host_process import ReadyLine, end_with_parent, take_key
from backfill.engines.host_server import open_server, run
from backfill.engines.openvino.host.handlers import make_app
from backfill.engines.openvino.host.model import Model
from backfill.engines.openvino.host.pipeline import EngineFailed, Scheduler, shorten
from backfill.engines.openvino.messages import HostSettings, Ready

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Serve until the parent, a signal or a failure of the engine ends it; does not return."""
    settings = msgspec.json.decode(arguments[0], type=HostSettings)
    key = take_key()
    end_with_parent()
    line = ReadyLine()
    try:
        model = Model(settings)
    except OSError as error:
        line.send(Ready(error=f"{settings.model}: {error.strerror or error}"))
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to the parent as words
        line.send(Ready(error=shorten(error)))
        os._exit(1)
    run(_serve(model, settings, key, line))
    os._exit(1)


async def _serve(model: Model, settings: HostSettings, key: str, line: ReadyLine) -> None:
    scheduler = Scheduler(model.pipeline, settings.concurrency)
    runner, url = await open_server(make_app(model, scheduler, settings.alias, key))
    line.send(Ready(url=url, context_tokens=model.context_tokens))
    try:
        await scheduler.run()
    except EngineFailed as failure:
        sys.stderr.write(f"{failure}\n")
        # Those that wait still get their answer; the parent starts another process.
        await runner.cleanup()


if __name__ == "__main__":
    main(sys.argv[1:])
