"""The child process in which Whisper runs: `python -m backfill.engines.speech.host SETTINGS`, settings as JSON.

It serves OpenAI's two audio routes on a free local port and says so in one line on stdout: {"url": …}, or {"error": …}
where the model cannot be loaded. stdin is the parent's hold on it: when that closes, for whatever reason, the process
ends.
"""

import asyncio
import os
import sys
from typing import Final

import msgspec

from backfill.engines.host_process import ReadyLine, end_with_parent, take_key
from backfill.engines.host_server import open_server, run
from backfill.engines.speech.host.handlers import make_app
from backfill.engines.speech.host.model import Model
from backfill.engines.speech.messages import HostSettings, Ready

__all__ = ["main"]

_MESSAGE_LENGTH: Final = 300


def main(arguments: list[str]) -> None:
    """Serve until the parent or a signal ends it; does not return."""
    settings = msgspec.json.decode(arguments[0], type=HostSettings)
    key = take_key()
    end_with_parent()
    line = ReadyLine()
    try:
        model = Model(settings)
    except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to the parent as words
        words = " ".join(str(error).split())[:_MESSAGE_LENGTH]
        line.send(Ready(error=words or type(error).__name__))
        os._exit(1)
    run(_serve(model, settings, key, line))
    os._exit(1)


async def _serve(model: Model, settings: HostSettings, key: str, line: ReadyLine) -> None:
    _, url = await open_server(make_app(model, settings, key))
    line.send(Ready(url=url))
    await asyncio.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
