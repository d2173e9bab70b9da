"""The process that an actor keeps: started again when it ends by itself, and gone with its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from backfill.scaler.worker_process import WorkerProcess, make_command

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_pid(worker: WorkerProcess) -> int:
    wait_until(lambda: worker.tell()["pid"])
    return int(worker.tell()["pid"])


def test_it_ends_when_it_is_told_to() -> None:
    worker = WorkerProcess(FOREVER, os.environ)
    pid = read_pid(worker)
    assert worker.tell()["phase"] == "up"
    worker.drain()
    worker.drain()
    wait_until(lambda: worker.tell()["phase"] == "ended")
    assert not psutil.pid_exists(pid)


def test_it_is_started_again_and_says_why() -> None:
    worker = WorkerProcess([sys.executable, "-c", "import sys, time; time.sleep(0.1); sys.exit(3)"], os.environ)
    first = read_pid(worker)
    wait_until(lambda: "exit code 3" in str(worker.tell()["trouble"]))
    assert worker.tell()["phase"] == "starting"
    wait_until(lambda: worker.tell()["pid"] not in {0, first})
    worker.drain()
    wait_until(lambda: worker.tell()["phase"] == "ended")


def test_a_program_that_is_not_there_is_told() -> None:
    worker = WorkerProcess(["/nowhere/backfill"], os.environ)
    wait_until(lambda: "No such file" in str(worker.tell()["trouble"]))
    worker.drain()
    wait_until(lambda: worker.tell()["phase"] == "ended")


def test_it_is_told_to_stop_when_its_parent_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"""
import os, subprocess, sys
from backfill.scaler.worker_process import make_command
command = make_command(os.getpid(), "null", "")
print(subprocess.Popen(command, stdout=open({str(told)!r}, "wb")).pid, flush=True)
sys.stdin.read()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
    environment |= {
        "BACKFILL_DATA_DIR": str(tmp_path / "data"),
        "BACKFILL_ENGINES__NULL__URL": "http://127.0.0.1:9",
        "BACKFILL_ENGINES__NULL__PLACE": "ray",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: told.exists() and b"ready" in told.read_bytes())
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid))


def test_the_command_says_no_more_than_the_engine() -> None:
    command = make_command(7, "gpu", "/etc/backfill.toml")
    said = ["7", "serve", "--role", "work", "--engine", "gpu", "--json", "--config", "/etc/backfill.toml"]
    assert command[-len(said) :] == said
