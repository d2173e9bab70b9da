"""A command loads what it uses: each of these packages costs more than some commands take in all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "aiohttp",
    "alembic",
    "backfill.app",
    "backfill.dispatch",
    "backfill.engines",
    "backfill.store",
    "backfill.web",
    "fastapi",
    "gguf",
    "huggingface_hub",
    "numpy",
    "openvino",
    "openvino_genai",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlalchemy",
    "structlog",
    "uvicorn",
    "uvloop",
    "xllamacpp",
}
LIGHT = {"aiohttp", "pydantic", "rich"}
NOT_AT_THE_START = {
    "alembic",  # the schema is the newest
    "backfill.web.api.document",  # nobody asked for it yet
    "gguf",
    "huggingface_hub",
    "numpy",  # there is no batch
    "openvino",
    "openvino_genai",
    "opentelemetry.sdk",  # nobody collects traces
    "prometheus_client",  # nobody asked for metrics yet
    "xllamacpp",
}
RUN = """
import sys
from backfill.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
SERVE = """
import os, signal, sys
from backfill.cli import main
from backfill.cli import serve as command

def end(url, *, as_json):
    print(*sys.modules, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)

command._announce = end
main()
"""


def list_loaded(code: str, folder: Path, *arguments: str) -> set[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment | {"BACKFILL_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "backfill.cli" in loaded, done.stderr
    return loaded


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["--version"], {"pydantic"}),
        (["check", "in.jsonl"], {"pydantic", "rich"}),
        (["estimate", "in.jsonl"], LIGHT),
        (["submit", "in.jsonl"], LIGHT),
        (["status"], LIGHT),
        (["list"], LIGHT),
        (["watch", "batch"], LIGHT),
        (["pause", "batch"], LIGHT),
        (["cancel", "batch"], LIGHT),
        (["download", "batch"], LIGHT),
        (["keys", "list"], LIGHT),
        (["models", "list"], {"backfill.engines", "pydantic", "rich"}),
        (["run", "--help"], HEAVY - NOT_AT_THE_START - {"backfill.web", "fastapi", "uvicorn"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_loads_no_more_than_it_uses(tmp_path: Path, arguments: list[str], allowed: set[str]) -> None:
    (tmp_path / "in.jsonl").write_text("{}\n")
    assert list_loaded(RUN, tmp_path, *arguments) & HEAVY <= allowed


def test_a_server_answers_before_it_loads_what_only_later_work_needs(tmp_path: Path) -> None:
    # The first start makes the database, the second one finds it.
    for _ in range(2):
        loaded = list_loaded(SERVE, tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
        assert "fastapi" in loaded
        assert loaded & NOT_AT_THE_START == set()


PLAN = """
import sys
import backfill.cli
from backfill.index import IndexBuilder, LineFacts
from backfill.plan import plan_lines
builder = IndexBuilder()
for line in range(5):
    builder.add(100 * line, LineFacts(10, 50, "m", 20, 10, (7, 0, 0, 0, 0, 0, 0, 0), 0, 7), b'""')
plan_lines(builder.build(), bytes(5), reuse=True)
print(*sys.modules, file=sys.stderr)
"""


def test_a_small_batch_is_planned_without_what_a_large_one_needs(tmp_path: Path) -> None:
    assert "numpy" not in list_loaded(PLAN, tmp_path)
