"""What bash offers at the tab key, asked by bash itself; and that the scripts for other shells are there."""

import os
import pty
import select
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

NOWHERE = {"BACKFILL_URL": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `backfill` that is this one."""
    folder = tmp_path_factory.mktemp("bin")
    code = "import sys; from backfill.cli import main; sys.argv[0] = 'backfill'; main()"
    (folder / "backfill").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    (folder / "backfill").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with (
        NullEngine() as engine,
        BackfillServer(tmp_path_factory.mktemp("data"), engine.url, limits__lines="4") as server,
    ):
        yield server


def make_environment(program: Path, variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
    return kept | {"PATH": f"{program}:{kept['PATH']}"} | dict(variables)


def offer(line: str, program: Path, variables: Mapping[str, str] = NOWHERE) -> list[str]:
    """What bash offers at the end of a line."""
    words = [*line.split(" ")]
    quoted = " ".join(map(shlex.quote, words))
    script = (
        'eval "$(backfill completion bash)"; '
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _backfill_completion backfill; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=make_environment(program, variables),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_and_options_are_offered(program: Path) -> None:
    assert offer("backfill ca", program) == ["cancel"]
    assert {"run", "submit", "download", "completion"} <= set(offer("backfill ", program))
    assert "--version" in offer("backfill --", program)
    assert offer("backfill keys r", program) == ["rotate", "revoke"]
    assert {"--prompt", "--window", "--wait"} <= set(offer("backfill submit --", program))


def test_words_that_options_take_are_offered(program: Path) -> None:
    assert offer("backfill check --dialect o", program) == ["openai"]
    assert offer("backfill submit in.jsonl --endpoint /v1/chat", program) == ["/v1/chat/completions"]
    assert offer("backfill keys create me --scope re", program) == ["read-only"]
    assert offer("backfill completion z", program) == ["zsh"]
    assert "24h" in offer("backfill submit --window ", program)
    assert offer("backfill usage --by day,mo", program) == ["day,model"]
    assert offer("backfill status --api-key-env MY_", program, NOWHERE | {"MY_KEY": "x", "MY_ROW": "y"}) == ["MY_KEY"]


def test_ids_are_offered_of_batches_that_a_command_is_for(
    program: Path, server: BackfillServer, tmp_path: Path
) -> None:
    variables = {"BACKFILL_URL": server.url}
    (tmp_path / "in.jsonl").write_bytes(request_lines(6))
    code, out, err = backfill("submit", "in.jsonl", "--wait", folder=tmp_path, variables=variables)
    assert code == 0, err
    group = out.strip()
    offered = offer("backfill download ", program, variables)
    assert offered[0] == group
    assert len(offered) == 3
    assert offer(f"backfill watch {group[:9]}", program, variables) == [group]
    assert offer(f"backfill status --url {server.url} {group[:9]}", program) == [group]
    assert offer("backfill cancel ", program, variables) == []


def test_a_server_that_says_nothing_is_not_waited_for(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert offer("backfill watch ", program, {"BACKFILL_URL": url}) == []
    assert offer("backfill watch ", program) == []


def test_files_are_offered_where_nothing_else_is(program: Path, tmp_path: Path) -> None:
    """At a terminal, as the shell looks for files only there."""
    (tmp_path / "requests.jsonl").touch()
    environment = make_environment(program, NOWHERE | {"PS1": "ready> ", "TERM": "dumb"})
    terminal, inner = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    ) as shell:
        os.close(inner)
        try:
            read_until(terminal, b"ready> ")
            os.write(terminal, b'eval "$(backfill completion bash)"; echo "it is" set\n')
            read_until(terminal, b"it is set")
            os.write(terminal, b"backfill check requ\t")
            read_until(terminal, b"requests.jsonl")
            os.write(terminal, b" --dial\t")
            read_until(terminal, b"--dialect")
        finally:
            shell.kill()
            os.close(terminal)


def read_until(terminal: int, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, seen
        seen += os.read(terminal, 65536)


@pytest.mark.parametrize(("shell", "told"), [("zsh", "#compdef backfill"), ("fish", "complete --command backfill")])
def test_other_shells_have_a_script_too(shell: str, told: str, tmp_path: Path) -> None:
    code, out, _ = backfill("completion", shell, folder=tmp_path)
    assert code == 0
    assert told in out
    assert "_BACKFILL_COMPLETE=complete_" in out
