"""`python -m backfill.scaler.ray_client PARENT`: the only process of the scaler that knows Ray.

Ray ends every process that is connected to it a minute after the head is gone, and some of its calls never return. So
this is a process that may end or be killed at any time: it knows nothing that the cluster does not know. It reads a
line of JSON from stdin and answers with a line on stdout, until stdin ends.
"""

import logging
import os
import signal
import sys
from typing import Any, BinaryIO

import msgspec

from backfill.scaler.cluster import Placed
from backfill.scaler.parent import end_with_parent
from backfill.scaler.ray_messages import Answer, Hello, Order
from backfill.scaler.ray_worker import RayWorker

try:
    import ray
    import ray.util
except ImportError:
    ray = None

__all__ = ["answer_lines"]

_PATIENCE_S = 3.0
# Ray's own words for what it counts itself.
_OWN_RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


class _Client:
    """Connected to a cluster."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._prefix = f"backfill/{hello.installation}/"
        self._asked: dict[str, Any] = {}
        """Name -> the question that is still open: one that has no place yet must not be asked again and again."""
        ray.init(address=hello.address, namespace=hello.namespace, log_to_driver=False, logging_level=logging.ERROR)

    def carry_out(self, order: Order) -> Answer:
        """One order; raises whatever Ray does."""
        name = f"{self._prefix}{order.engine}/{order.number}"
        match order.what:
            case "list":
                return Answer(placed=self._list())
            case "start":
                self._start(name, order)
            case "drain":
                self._drain(name)
            case "remove":
                self._remove(name)
        return Answer()

    def _list(self) -> list[Placed]:
        names = [name for name in ray.util.list_named_actors() if name.startswith(self._prefix)]
        for name in names:
            if name not in self._asked:
                try:
                    self._asked[name] = ray.get_actor(name).tell.remote()
                except ValueError:  # it has gone meanwhile
                    continue
        self._asked = {name: asked for name, asked in self._asked.items() if name in names}
        if self._asked:
            ray.wait([*self._asked.values()], num_returns=len(self._asked), timeout=_PATIENCE_S)
        return [self._describe(name) for name in names]

    def _describe(self, name: str) -> Placed:
        engine, _, number = name.removeprefix(self._prefix).rpartition("/")
        told: dict[str, Any] = {"trouble": "Ray has found no place for it yet, or it does not answer"}
        asked = self._asked.get(name)
        if asked is not None and ray.wait([asked], timeout=0)[0]:
            del self._asked[name]
            try:
                told = ray.get(asked)
            except ray.exceptions.RayError as error:
                told = {"trouble": f"Ray starts it again ({type(error).__name__})"}
        return msgspec.convert({"engine": engine, "number": int(number), **told}, Placed)

    def _start(self, name: str, order: Order) -> None:
        given = dict(order.resources)
        options = {ours: given.pop(word) for word, ours in _OWN_RESOURCES.items() if word in given}
        options = {"num_cpus": 1} | options if not order.resources else {"num_cpus": 0} | options
        worker = ray.remote(RayWorker).options(
            name=name,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
            resources=given or None,
            **options,
        )
        worker.remote(order.engine, self._hello.config_file)

    def _drain(self, name: str) -> None:
        try:
            actor = ray.get_actor(name)
        except ValueError:
            return
        try:
            ray.get(actor.drain.remote(), timeout=_PATIENCE_S)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            # It has no place, or its node is gone: there is nobody who could give anything back.
            ray.kill(actor, no_restart=True)

    def _remove(self, name: str) -> None:
        try:
            ray.kill(ray.get_actor(name), no_restart=True)
        except ValueError:
            return


def answer_lines(lines: BinaryIO, answers: int) -> None:
    """Carry out what comes until it ends, or until something fails; `answers` is a descriptor."""

    def say(answer: Answer) -> None:
        os.write(answers, msgspec.json.encode(answer) + b"\n")

    hello = msgspec.json.decode(lines.readline(), type=Hello)
    if ray is None:
        say(Answer(error="Ray is not installed", is_missing=True))
        return
    try:
        client = _Client(hello)
        say(Answer())
        for line in lines:
            say(client.carry_out(msgspec.json.decode(line, type=Order)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the scaler starts another client and asks again
        reason = " ".join(str(error).split())[:500]
        say(Answer(error=f"{type(error).__name__}: {reason}"))


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    # What libraries print goes where logs go.
    answers = os.dup(1)
    os.dup2(2, 1)
    with open(0, "rb", closefd=False) as stdin:
        answer_lines(stdin, answers)
    # Taking Ray down in order needs a cluster that answers.
    os._exit(0)
