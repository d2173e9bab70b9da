"""A Ray cluster, seen through a child process that is started again whenever it ends or does not answer."""

import asyncio
import os
import sys
from collections.abc import Mapping

import msgspec
import structlog

from backfill.config import RayConfig
from backfill.errors import EngineUnavailable, InvalidConfig
from backfill.scaler.cluster import Placed, Placement
from backfill.scaler.ray_messages import Answer, Hello, Order

__all__ = ["RayCluster", "choose_environment"]

# A head that is not there is tried for by Ray for minutes.
_CONNECT_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 30.0
_ANSWER_BYTES_MAX = 16 * 1024 * 1024
_log = structlog.get_logger(__name__)


class RayCluster:
    """Nothing is connected before the first call."""

    def __init__(self, settings: RayConfig, installation: str) -> None:
        self._address = settings.address
        self._hello = Hello(settings.address, settings.namespace, installation, settings.config_file)
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def client_pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def list(self) -> list[Placed]:
        """All workers of this installation; raises EngineUnavailable, as all that follow do."""
        return list((await self._ask(Order("list"))).placed)

    async def start(self, placement: Placement, resources: Mapping[str, float]) -> None:
        """Have one more."""
        await self._ask(Order("start", *placement, resources=resources))

    async def drain(self, placement: Placement) -> None:
        """Have it give its turns back and end."""
        await self._ask(Order("drain", *placement))

    async def remove(self, placement: Placement) -> None:
        """Forget it."""
        await self._ask(Order("remove", *placement))

    async def close(self) -> None:
        """End the child; the workers stay."""
        async with self._lock:
            await self._end()

    async def _ask(self, order: Order) -> Answer:
        async with self._lock:
            try:
                if self._process is None or self._process.returncode is not None:
                    await self._connect()
                return await self._exchange(order, _ANSWER_TIMEOUT_S)
            except BaseException:
                # Whatever it still says would be taken for the answer to something else.
                await self._end()
                raise

    async def _connect(self) -> None:
        await self._end()
        command = (sys.executable, "-P", "-m", "backfill.scaler.ray_client", str(os.getpid()))
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_ANSWER_BYTES_MAX,
            env=choose_environment(os.environ),
            # Ctrl-C at the terminal is for us.
            start_new_session=True,
        )
        await self._exchange(self._hello, _CONNECT_TIMEOUT_S)
        _log.info("connected to Ray", address=self._address, client=self._process.pid)

    async def _exchange(self, message: Hello | Order, timeout_s: float) -> Answer:
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        assert process.stdin is not None  # noqa: S101 - created with pipes
        assert process.stdout is not None  # noqa: S101 - created with pipes
        try:
            async with asyncio.timeout(timeout_s):
                process.stdin.write(msgspec.json.encode(message) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            answer = msgspec.json.decode(line, type=Answer)
        except TimeoutError:
            raise EngineUnavailable(f"The Ray cluster {self._address} does not answer.") from None
        except (OSError, ValueError):
            # It ended: Ray ends whoever is connected when the head is gone for a while.
            raise EngineUnavailable(f"The connection to the Ray cluster {self._address} was lost.") from None
        if answer.is_missing:
            message_ = 'Engines with place = "ray" need Ray: pip install "backfill[ray]".'
            raise InvalidConfig(message_, param="engines")
        if answer.error:
            raise EngineUnavailable(f"The Ray cluster {self._address} cannot be used: {answer.error}")
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()


def choose_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Ours without our settings: it needs none of them, and Ray looks at much."""
    return {name: value for name, value in environment.items() if not name.startswith("BACKFILL_")}
