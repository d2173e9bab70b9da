"""Workers on a Ray cluster in a storm: two nodes, their head, and scalers, each of which may be killed.

Settings that are secret stand in the environment of the nodes, as in an installation; the others in a file.
"""

import json
import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bench.scale.ray_nodes import RayNode, RayNodes
from bench.scale.storm_parts import Part

__all__ = ["RAY_WORKERS", "list_ray_parts", "make_nodes", "write_ray_settings"]

RAY_WORKERS = 2
_NODES = 2


def make_nodes(folder: Path, settings: Mapping[str, str]) -> RayNodes:
    """Each with a data directory of its own, as on two machines; one has room for all workers while the other is away.

    `settings`: those of servers, in the names of the environment but for what stands before them.
    """
    common = {f"BACKFILL_{name}".upper(): value for name, value in settings.items()}
    own = [common | {"BACKFILL_DATA_DIR": str(folder / f"node-{number}")} for number in range(_NODES)]
    return RayNodes(nodes=_NODES, places=RAY_WORKERS, settings=own)


def write_ray_settings(path: Path, address: str, near: tuple[str, int], far: tuple[str, int]) -> None:
    """For all processes: an engine of workers without Ray and one of those on it, each with its url and places."""
    values: dict[str, object] = {
        "ray.address": address,
        "ray.config_file": str(path),
        "ray.idle_s": 10,
        "ray.clear_s": 1,
        "ray.start_s": 5,
        "engines.near.url": near[0],
        "engines.near.concurrency": near[1],
        "engines.far.url": far[0],
        "engines.far.concurrency": far[1],
        "engines.far.place": "ray",
        "engines.far.replicas.max": RAY_WORKERS,
    }
    # As JSON these are TOML too.
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))


def list_ray_parts(nodes: RayNodes, dice: random.Random) -> list[Part]:
    """The head and the raylets are started again by who watches their machines, the others by Ray and their actors."""

    def find_actors() -> list[int]:
        return [actor.pid for node in nodes.nodes for actor in node.actors]

    def find_workers() -> list[int]:
        return [child for actor in find_actors() for child in _list_children(actor)]

    return [
        Part("Ray head", "Ray head", nodes.head.kill, nodes.head.restart, lambda: nodes.head.has_raylet, may_end=True),
        *(_make_raylet(f"raylet {number}", node) for number, node in enumerate(nodes.nodes)),
        _make_living("actor", find_actors, dice),
        _make_living("worker on Ray", find_workers, dice),
    ]


def _make_raylet(name: str, node: RayNode) -> Part:
    return Part("raylet", name, node.kill_raylet, node.restart, lambda: node.has_raylet, may_end=True)


def _make_living(kind: str, find: Callable[[], list[int]], dice: random.Random) -> Part:
    """One of those that are there; nobody but Ray and the scaler sees to it that others come."""

    def kill() -> None:
        pids = find()
        if pids:
            with suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)

    return Part(kind, kind, kill, lambda: None, lambda: True, lambda: bool(find()))


def _list_children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []
