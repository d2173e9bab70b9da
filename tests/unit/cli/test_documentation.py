"""docs/cli.md and docs/configuration.md say what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from backfill.cli.main import SUMMARIES, app
from backfill.config import Config, load_config

DOCS = Path(__file__).resolve().parents[3] / "docs"
SETTINGS = DOCS / "configuration.md"
ROW = re.compile(r"(?m)^\| `(\w+\.\w+)` \| [^|]+ \| `([^`]+)` \|.*\| `(BACKFILL_\w+)` \|$")


def list_commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for part, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from list_commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


COMMANDS = dict(list_commands(typer.main.get_command(app), "backfill"))


def test_the_help_shows_the_commands_own_words() -> None:
    commands = typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    assert {name: command.help for name, command in commands} == SUMMARIES


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (DOCS / "cli.md").read_text()
    assert re.search(rf"(?m)^##+ `{name}\b", page)
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("-")}
    assert [option for option in sorted(options - {"--help"}) if not re.search(rf"`{option}\b", page)] == []


def test_defaults_and_variables_are_as_documented() -> None:
    rows = ROW.findall(SETTINGS.read_text())
    config = Config()
    for dotted, default, variable in rows:
        section, name = dotted.split(".")
        found = getattr(getattr(config, section), name)
        as_toml = str(found).lower() if isinstance(found, bool) else str(found)
        assert default == ("[]" if found == () else as_toml), dotted
        assert variable == f"BACKFILL_{section}__{name}".upper()
    documented = {dotted for dotted, _, _ in rows} | {
        "store.metadata",
        "store.blobs",
        "store.s3_endpoint",
        "store.s3_region",
        "store.s3_access_key_id",
        "store.s3_secret_access_key",
        "store.s3_session_token",
        "server.public_url",
        "server.work_port",
        "server.advertise",
        "server.engine",
        "ray.config_file",
        "webhooks.url",
        "webhooks.secret",
        "media.proxy",
        "money.price_per_kwh",
        "telemetry.endpoint",
    }
    # The catalogue's table of models has a page of its own.
    sections = [each for each in Config.model_fields if isinstance(getattr(config, each), BaseModel)]
    sections.remove("catalogue")
    assert documented == {f"{each}.{name}" for each in sections for name in type(getattr(config, each)).model_fields}


def test_examples_of_settings_are_accepted(tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^```toml\n(.*?)^```", SETTINGS.read_text())
    assert len(blocks) >= 6
    for block in blocks:
        path = tmp_path / "backfill.toml"
        path.write_text(block)
        load_config(path, environment={})
