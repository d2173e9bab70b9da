"""A reverse proxy as one writes it with aiohttp in an afternoon: `python -m bench.service.bare_proxy TARGET`.

It passes a request on and the answer back piece by piece, and knows of nothing else: no keys, no models, no limits.
"""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from bench.ready_process import ReadyProcess

__all__ = ["BareProxy", "main"]

_ROOT = Path(__file__).resolve().parents[2]


class BareProxy(ReadyProcess):
    """The proxy before `target`, as a child process."""

    def __init__(self, target: str) -> None:
        self._target = target

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.service.bare_proxy", self._target]
        return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE)


async def _serve(target: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            headers = {"Content-Type": request.content_type}
            async with session.post(f"{target}{request.path}", data=body, headers=headers) as answer:
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
                response.content_length = answer.content_length
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        await runner.cleanup()


def main() -> None:
    """Serve until SIGTERM."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
