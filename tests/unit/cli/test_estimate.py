"""What a file costs, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backfill.cli.main import app

GLM = "zai-org/GLM-4.5-Air-FP8"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKFILL_URL", raising=False)
    return tmp_path


def write(folder: Path, *models: str | None) -> None:
    bodies = [{"max_tokens": 1000, "messages": [{"role": "user", "content": "x" * 4000}]} for _ in models]
    for body, model in zip(bodies, models, strict=True):
        if model:
            body["model"] = model
    lines = [json.dumps({"custom_id": str(number), "body": body}) for number, body in enumerate(bodies)]
    (folder / "in.jsonl").write_text("\n".join(lines))


def estimate(*options: str) -> Any:
    result = CliRunner().invoke(app, ["estimate", "in.jsonl", "--json", *options])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_tokens_and_prices_of_each_model(folder: Path) -> None:
    write(folder, GLM, GLM, "own")
    told = estimate()
    known, own = told["models"]
    assert (known["requests"], known["completion_tokens"]) == (2, 2000)
    assert 1900 < known["prompt_tokens"] < 2200
    exact = known["prompt_tokens"] * 0.20e-6 + 2000 * 1.10e-6
    assert float(known["list_price"]) == pytest.approx(exact)
    assert float(known["batch_price"]) == float(known["saved"]) == pytest.approx(exact / 2)
    assert (own["list_price"], own["batch_discount_percent"]) == (None, 0)
    assert (told["list_price"], told["requests"]) == (None, 3), "unknown, and not the sum of what is known"
    assert "estimated_seconds" not in told


def test_a_person_reads_what_is_saved(folder: Path) -> None:
    write(folder, *[GLM] * 500)
    printed = CliRunner().invoke(app, ["estimate", "in.jsonl"]).stdout
    facts = {line[:10].strip(): line[11:] for line in printed.splitlines()[1:]}
    assert facts["tokens"].startswith("500 requests, about ")
    assert (facts["list price"], facts["as a batch"], facts["saved"]) == ("$0.65", "$0.33", "$0.33")


def test_lines_without_a_model_are_of_the_one_that_is_named(folder: Path) -> None:
    write(folder, None, GLM)
    assert [one["model"] for one in estimate("--model-id", "own")["models"]] == ["own", GLM]


def test_a_file_that_cannot_be_a_batch_is_no_estimate_to_rely_on(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"custom_id": "a"}\n')
    result = CliRunner().invoke(app, ["estimate", "in.jsonl"])
    assert result.exit_code == 2
    assert "`backfill check` names" in result.stderr
