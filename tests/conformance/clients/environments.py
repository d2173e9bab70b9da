"""Throwaway environments for client libraries, made once and kept in a cache outside the repository.

A cache folder's name holds a hash of what was asked for, so that another pin is another folder. BACKFILL_TEST_CACHE
says where they are; the default is the user's cache folder.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import pytest

__all__ = ["make_node_environment", "make_python_environment"]

_REQUIREMENTS = Path(__file__).parent / "requirements"
_INSTALL_TIMEOUT_S = 240
# What the installer's own failure says is worth more than its exit code.
_SHOWN_CHARACTERS = 2000


def make_python_environment(name: str) -> Path:
    """The folder of programs of a virtual environment with `requirements/<name>.txt` installed."""
    requirements = _REQUIREMENTS / f"{name}.txt"

    def install(folder: Path) -> None:
        # This interpreter's pip installs into it: a pip of its own would take longer than most libraries.
        _run("-m", "venv", "--without-pip", str(folder))
        _run(
            *("-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--requirement", str(requirements)),
        )

    key = f"{sys.version}\n{sys.prefix}\n{requirements.read_text(encoding='utf-8')}"
    return _make(name, key, install) / "bin"


def make_node_environment(*packages: str) -> Path:
    """The folder in which these npm packages are installed; the test is skipped where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")

    def install(folder: Path) -> None:
        folder.mkdir()
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--loglevel=error")
        _run("install", "--prefix", str(folder), *options, *packages, program=npm)

    name = packages[0].replace("@", "-").replace("/", "-").strip("-")
    return _make(name, f"{platform.machine()} {' '.join(packages)}", install)


def _make(name: str, key: str, install: Callable[[Path], None]) -> Path:
    """The folder of that key, filled by `install` if nobody did so yet; its name says what is in it."""
    given = os.environ.get("BACKFILL_TEST_CACHE")
    cache = Path(given) if given else platformdirs.user_cache_path("backfill") / "test-clients"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    complete = folder / "complete"
    with _lock(cache / f"{folder.name}.lock"):
        if not complete.exists():
            # What a run that was stopped left behind.
            shutil.rmtree(folder, ignore_errors=True)
            install(folder)
            complete.touch()
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other test runs from making the same environment at the same time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*arguments: str, program: str = sys.executable) -> None:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(arguments)}: {(done.stdout + done.stderr)[-_SHOWN_CHARACTERS:]}"
