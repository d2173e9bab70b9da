"""What stands in `deploy/` names only what there is: commands, options, settings, files."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from backfill.cli.main import app
from backfill.config import load_config
from backfill.web.api.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
GIVEN = {"BACKFILL_API_KEY": "k", "POSTGRES_PASSWORD": "p", "S3_SECRET": "s", "ENGINE_URL": "http://gpu:8000/v1"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def fill_in(text: str) -> str:
    """As compose does: `${NAME:?message}` must be given, `${NAME:-value}` may be."""

    def replace(found: re.Match[str]) -> str:
        name, kind, rest = found[1], found[2], found[3]
        return GIVEN[name] if kind == "?" else GIVEN.get(name, rest)

    return re.sub(r"\$\{(\w+):([?-])([^}]*)\}", replace, text)


def check_command(words: list[str]) -> None:
    """Raise if there is no such command, or it has no such option."""
    group: Any = get_command(app)
    command = group.commands[words[0]]
    command.make_context(words[0], words[1:], resilient_parsing=True)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= known


def list_own(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if service.get("image") == "backfill"}


def test_the_services_are_those_that_are_promised(compose: dict[str, Any]) -> None:
    own = list_own(compose)
    assert sorted(own) == ["api-1", "api-2", "worker-1", "worker-2"]
    for name, service in own.items():
        words = service["command"]
        check_command(words)
        assert words[words.index("--role") + 1] == ("api" if name.startswith("api") else "work")
        for needed in service["depends_on"]:
            assert needed in compose["services"]


def test_their_settings_are_settings(compose: dict[str, Any]) -> None:
    for service in list_own(compose).values():
        environment = {name: fill_in(value) for name, value in service["environment"].items()}
        config = load_config(environment=environment, overrides={"data_dir": "anywhere"})
        assert config.store.is_remote
        assert config.server.api_keys
        assert list(config.engines) == ["gpu"]


def test_what_is_to_be_filled_in_stands_in_the_example(compose: dict[str, Any]) -> None:
    named = set(re.findall(r"\$\{(\w+):", (DEPLOY / "compose.yaml").read_text()))
    example = (DEPLOY / "compose.env.example").read_text().splitlines()
    assert named == {line.partition("=")[0] for line in example if re.match(r"\w+=", line)}


def test_the_balancer_knows_the_processes_that_answer(compose: dict[str, Any]) -> None:
    page = (DEPLOY / "Caddyfile").read_text()
    named = re.search(r"reverse_proxy (.*) \{", page)
    assert named is not None
    for target in named[1].split():
        name, _, port = target.partition(":")
        words = compose["services"][name]["command"]
        assert words[words.index("--port") + 1] == port
    asked = re.search(r"health_uri (\S+)", page)
    assert asked is not None
    assert ("GET", asked[1]) in OPERATIONS
    checks = [" ".join(service["healthcheck"]["test"]) for service in list_own(compose).values()]
    assert all("/healthz" in check for check in checks)


def test_the_image_copies_and_starts_what_there_is() -> None:
    instructions = re.findall(r"(?m)^([A-Z]+) (.*)$", (DEPLOY / "Dockerfile").read_text())
    for name, rest in instructions:
        if name == "COPY":
            assert [source for source in rest.split()[:-1] if not (ROOT / source).exists()] == []
        if name == "CMD":
            check_command(json.loads(rest))
    assert ("ENTRYPOINT", '["backfill"]') in instructions


def test_the_unit_starts_what_there_is(tmp_path: Path) -> None:
    unit = (DEPLOY / "backfill.service").read_text()
    started = re.search(r"(?m)^ExecStart=(.*)$", unit)
    assert started is not None
    words = shlex.split(started[1])
    assert Path(words[0]).name == "backfill"
    check_command(words[1:])
    if shutil.which("systemd-analyze") is None:
        return
    # It looks whether the program is there.
    path = tmp_path / "backfill.service"
    path.write_text(unit.replace(words[0], "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert "backfill.service" not in checked.stderr, checked.stderr


def test_the_page_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    for name in set(re.findall(r"deploy/([\w.-]+\w)", page)) - {"compose.env"}:
        assert (DEPLOY / name).is_file(), name


def test_the_page_names_metrics_that_are_there() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    named = set(re.findall(r"`(backfill_\w+)`", page))
    assert named
    assert named <= set(re.findall(r"backfill_\w+", (ROOT / "docs" / "observability.md").read_text()))
