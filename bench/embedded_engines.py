"""The embedded engines in the measurements: how Backfill is told of them, and turns of Backfill and closed loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.batch_run import BatchRun, run_batch
from bench.closed_loop import LoopRun
from bench.closed_loop_process import ClosedLoop
from bench.findings import Setting
from bench.server_process import BackfillServer, Engines
from bench.workloads import make_chats, write_requests

__all__ = ["SLOTS", "Sides", "configure_engines", "describe_faults", "open_sides", "warm_up", "write_workload"]

SLOTS = {"openvino": 64, "llamacpp": 8}
"""Requests that each engine computes side by side: Backfill's defaults."""
_WARM_UP_LINES = 16


@dataclass(frozen=True)
class Sides:
    """A server and a driver, each with an engine process of its own, warm; they are never busy at the same time."""

    server: BackfillServer
    loop: ClosedLoop


def configure_engines(*names: str) -> Engines:
    """The settings of these engines; a model is named after the engine that serves it."""
    places = {"openvino": "concurrency", "llamacpp": "slots"}
    return {name: {"kind": name, "models": [name], places[name]: SLOTS[name]} for name in names}


def write_workload(setting: Setting, bodies: list[dict[str, Any]]) -> Path:
    """The bodies as a new input file."""
    return write_requests(setting.make_folder() / "input.jsonl", bodies)


def warm_up(server: BackfillServer, setting: Setting, engine: str) -> None:
    """Have the engine loaded and its first steps done."""
    run_batch(server, write_workload(setting, make_chats(engine, _WARM_UP_LINES, (8,), "warm-up")))


@contextmanager
def open_sides(setting: Setting, engine: str, loop_engine: str) -> Iterator[Sides]:
    """Both sides, warm.

    Raises:
        EngineMissingError: the engine cannot be had on this machine.

    """
    path = write_workload(setting, make_chats(engine, _WARM_UP_LINES, (8,), "warm-up"))
    with (
        ClosedLoop(loop_engine, SLOTS[engine]) as loop,
        BackfillServer(setting.make_folder() / "data", configure_engines(engine)) as server,
    ):
        loop.run(path, SLOTS[engine])
        warm_up(server, setting, engine)
        yield Sides(server, loop)


def describe_faults(run: LoopRun | BatchRun, side: str) -> list[str]:
    """What is wrong with a run's answers, in words."""
    if isinstance(run, BatchRun):
        return [f"{side}: {one}" for one in run.violations]
    faults: list[tuple[int, Callable[[int], str]]] = [
        (run.failed, lambda count: f"{side}: {count} requests were not answered"),
        (run.wrong_lengths, lambda count: f"{side}: {count} answers have not the length asked for"),
    ]
    return [describe(count) for count, describe in faults if count]
