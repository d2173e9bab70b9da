import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backfill.cli import models
from backfill.cli.main import app
from backfill.engines.models.catalogue import CATALOGUE
from backfill.engines.models.fetch import Progress

NAME = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKFILL_MODELS_DIR", str(tmp_path))
    return tmp_path


def test_what_is_here_and_what_is_not_is_listed(models_dir: Path) -> None:
    (models_dir / "own.gguf").write_bytes(bytes(2048))
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.exit_code == 0
    catalogue, base, tiny, own, gap, heads, *prices = result.stdout.splitlines()
    assert catalogue.split()[:3] == [NAME, "not", "fetched"]
    assert [line.split()[:3] for line in (base, tiny)] == [
        ["whisper-base", "not", "fetched"],
        ["whisper-tiny.en", "not", "fetched"],
    ]
    assert own.split() == ["own", "2", "kB"]
    facts = json.loads(CliRunner().invoke(app, ["models", "list", "--json"]).stdout)
    assert [(fact["name"], fact["path"]) for fact in (facts[0], facts[3])] == [
        (NAME, None),
        ("own", str(models_dir / "own.gguf")),
    ]
    assert (gap, heads.split()) == ("", ["model", "context", "input", "output", "batch", "read", "retired"])
    assert len(prices) >= 18


def test_prices_and_discounts_are_shown_and_what_is_unknown_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("BACKFILL_CATALOGUE__MODELS", "{free = {input_per_million = 0, output_per_million = 0.05}}")
    rows = {
        line.split()[0]: line.split()[1:]
        for line in CliRunner().invoke(app, ["models", "list"]).stdout.splitlines()
        if line
    }
    assert rows["zai-org/GLM-4.5-Air-FP8"] == ["131,072", "0.20", "1.10", "-50", "%", "2026-11-26", "2026-04-02"]
    assert rows["openai/whisper-large-v3"] == ["?", "?", "?", "-50", "%"]
    assert rows["free"] == ["?", "0.00", "0.05", "0", "%"]
    facts = {fact["name"]: fact for fact in json.loads(CliRunner().invoke(app, ["models", "list", "--json"]).stdout)}
    assert facts["free"]["input_per_million"] == 0
    assert facts["openai/whisper-large-v3"]["audio_per_minute"] is None
    assert facts["zai-org/GLM-4.5-Air-FP8"]["batch_discount_percent"] == 50


def test_a_model_that_is_here_is_not_fetched(models_dir: Path) -> None:
    path = models_dir / CATALOGUE[NAME].file_name
    path.write_bytes(b"here")
    result = CliRunner().invoke(app, ["models", "pull", NAME])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}\n", "")


def test_fetching_is_shown(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = models_dir / "made.gguf"

    def pull(_name: str, _models_dir: Path, progress: Progress) -> Path:
        progress("downloading", 1, 2)
        made.write_bytes(b"made")
        return made

    monkeypatch.setattr(models, "pull", pull)
    result = CliRunner().invoke(app, ["models", "pull", "hf:OWNER/REPO", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"name": "hf:OWNER/REPO", "path": str(made), "size_bytes": 4}
    assert result.stderr == "fetching the model hf:OWNER/REPO, once\n"


def test_an_unknown_model_is_an_error() -> None:
    result = CliRunner().invoke(app, ["models", "pull", "none"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: 'none' cannot be fetched: give a name of the catalogue")
