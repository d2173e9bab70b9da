"""What the command line makes of the built-in engine: its choice, its limits, and `--deterministic`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backfill.cli.main import app
from backfill.cli.run import _check_extra, _configure
from backfill.config import Config
from backfill.engines.models import openvino as openvino_models
from backfill.local import limit_concurrency, list_built_in_models
from tests.unit.engines.test_openvino_files import write_model


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKFILL_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("BACKFILL_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "in.jsonl").write_text('{"custom_id":"a","body":{"model":"m","messages":[]}}\n')
    return tmp_path


def test_models_are_listed_with_their_engine(models_dir: Path) -> None:
    write_model(models_dir / "good.gguf")
    write_model(models_dir / "other.gguf", "gemma3")
    (models_dir / "broken.gguf").write_bytes(b"no")
    (models_dir / "folder").mkdir()
    (models_dir / "folder" / openvino_models.IR_FILE_NAME).touch()
    listed = json.loads(CliRunner().invoke(app, ["models", "list", "--json"]).stdout)
    engines = {fact["name"]: fact["engine"] for fact in listed if fact["path"]}
    assert engines == {"broken": None, "good": "openvino", "other": "llamacpp", "folder": "openvino"}
    assert "openvino" in CliRunner().invoke(app, ["models", "list"]).stdout


def test_the_models_that_a_run_needs() -> None:
    config = _configure(None, Path("out.jsonl"), "own.gguf", None, None)
    for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"):
        assert list_built_in_models(config, endpoint) == ["own.gguf"]
    assert list_built_in_models(config, "/v1/audio/transcriptions") == ["own.gguf"]
    assert list_built_in_models(Config(), "/v1/audio/translations") == ["whisper-base"]
    assert list_built_in_models(Config(), "/v1/rerank") == []
    external = _configure(None, Path("out.jsonl"), None, "http://127.0.0.1:1", None)
    assert list_built_in_models(external, "/v1/chat/completions") == []


def test_concurrency_holds_for_whichever_engine_is_chosen() -> None:
    engines = limit_concurrency(Config(), 3).engines
    assert (engines["local"].concurrency, engines["local"].slots) == (3, 3)  # type: ignore[union-attr]
    assert engines["local-embeddings"].slots == 3  # type: ignore[union-attr]


def test_deterministic_with_a_model_that_openvino_cannot_run(models_dir: Path) -> None:
    model = write_model(models_dir / "other.gguf", "gemma3")
    words = ["in.jsonl", "-o", "out.jsonl", "--deterministic", "--model", str(model)]
    result = CliRunner().invoke(app, ["run", *words])
    assert result.exit_code == 2
    assert "cannot answer deterministically" in result.stderr
    assert "'gemma3'" in result.stderr


def test_clips_need_an_extra(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backfill.cli.run.is_installed", lambda: False)
    (models_dir / "in.jsonl").write_text("{}")
    words = ["run", str(models_dir / "in.jsonl"), "-o", str(models_dir / "out.jsonl"), "--endpoint"]
    result = CliRunner().invoke(app, [*words, "/v1/audio/transcriptions"])
    assert result.exit_code == 2
    assert 'pip install "backfill[audio]"' in " ".join(result.stderr.split())
    external = _configure(None, Path("out.jsonl"), None, "http://127.0.0.1:1", None)
    _check_extra(external, "/v1/audio/transcriptions")
    _check_extra(Config(), "/v1/embeddings")


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/embeddings", "/v1/audio/transcriptions"])
def test_deterministic_is_for_generated_text_by_openvino(endpoint: str) -> None:
    words = ["in.jsonl", "-o", "out.jsonl", "--deterministic", "--endpoint", endpoint]
    result = CliRunner().invoke(app, ["run", *words])
    assert result.exit_code == 2
    assert f"not for {endpoint}" in result.stderr


def test_deterministic_needs_an_engine_that_can(models_dir: Path) -> None:
    settings = models_dir / "backfill.toml"
    settings.write_text('[engines.gpu]\nurl = "http://127.0.0.1:1"\n')
    result = CliRunner().invoke(app, ["serve", "--deterministic", "--port", "0"])
    assert result.exit_code == 2
    assert "need a built-in engine" in result.stderr
