"""The child process that knows Ray: what becomes of the scaler when it is missing, silent or gone."""

import io
import os
import sys
from pathlib import Path

import msgspec
import pytest

from backfill.config import RayConfig
from backfill.errors import EngineUnavailable, InvalidConfig
from backfill.scaler import Placed, RayCluster, ray_client, ray_cluster
from backfill.scaler.ray_messages import Answer, Hello

HELLO = msgspec.json.encode(Hello("auto", "backfill", "i", "")) + b"\n"
PLACED = Answer(placed=[Placed("gpu", 1)])


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have another program be the child; it finds its lines in `lines`, and says `answer` on stdout."""
    path = folder / "client.py"
    path.write_text(f"import sys\nlines = iter(sys.stdin.readline, '')\n{code}\n")
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -u {path}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def say(answer: Answer) -> str:
    return f"print({msgspec.json.encode(answer).decode()!r}, flush=True)"


def read_pid(cluster: RayCluster) -> int | None:
    return cluster.client_pid


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_client, "ray", None)
    read, write = os.pipe()
    ray_client.answer_lines(io.BytesIO(HELLO), write)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        assert msgspec.json.decode(answers.readline(), type=Answer).is_missing


async def test_ray_that_is_missing_is_a_fault_of_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "next(lines); " + say(Answer(error="not installed", is_missing=True)))
    with pytest.raises(InvalidConfig, match=r'pip install "backfill\[ray\]"'):
        await RayCluster(RayConfig(), "i").list()


async def test_what_ray_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "next(lines); " + say(Answer(error="ConnectionError: no head")))
    with pytest.raises(EngineUnavailable, match="The Ray cluster auto cannot be used: ConnectionError: no head"):
        await RayCluster(RayConfig(), "i").list()


async def test_a_child_that_has_ended_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It answers once, as one whose head goes away then.
    stand_in(tmp_path, monkeypatch, f"next(lines); {say(Answer())}; next(lines); {say(PLACED)}; next(lines)")
    cluster = RayCluster(RayConfig(), "i")
    assert await cluster.list() == [Placed("gpu", 1)]
    first = read_pid(cluster)
    with pytest.raises(EngineUnavailable, match="The connection to the Ray cluster auto was lost"):
        await cluster.list()
    assert read_pid(cluster) is None
    assert await cluster.list() == [Placed("gpu", 1)]
    assert read_pid(cluster) not in {None, first}
    await cluster.close()
    assert read_pid(cluster) is None


async def test_a_child_that_says_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_CONNECT_TIMEOUT_S", 0.3)
    stand_in(tmp_path, monkeypatch, "import time; time.sleep(600)")
    cluster = RayCluster(RayConfig(), "i")
    with pytest.raises(EngineUnavailable, match="The Ray cluster auto does not answer"):
        await cluster.list()
    assert read_pid(cluster) is None


def test_no_setting_of_ours_reaches_the_child() -> None:
    environment = {"BACKFILL_STORE__METADATA": "postgresql://me:hush@h/rows", "RAY_AUTH_MODE": "token", "PATH": "/bin"}
    assert ray_cluster.choose_environment(environment) == {"RAY_AUTH_MODE": "token", "PATH": "/bin"}
