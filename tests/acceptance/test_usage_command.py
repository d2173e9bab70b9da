"""What a batch costs, from its price in the settings to the table at a terminal, through a real `backfill serve`."""

import csv
import io
import json
import random
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.null.process import NullEngine
from bench.service.money import find_mismatches, make_input, name_prices
from tests.acceptance.command_line import backfill
from tests.support.server_process import BackfillServer

MODELS = {"cheap", "dear", "odd", "unpriced"}


def test_cost_and_usage_of_a_batch_are_shown(tmp_path: Path) -> None:
    wanted = make_input(40, random.Random(7))
    (tmp_path / "in.jsonl").write_bytes(wanted.content)
    hardware = {"engines__null__cost_per_hour": "1.50", "engines__null__watts": "350", "money__price_per_kwh": "0.3"}
    settings = name_prices() | hardware
    with NullEngine(delay_ms=2) as engine, BackfillServer(tmp_path / "data", engine.url, **settings) as server:
        variables = {"BACKFILL_URL": server.url}

        def run(*words: str) -> str:
            code, out, err = backfill(*words, folder=tmp_path, variables=variables)
            assert code == 0, err
            return out + err

        batch_id = run("submit", "in.jsonl").strip()
        watched = run("watch", batch_id)
        assert "cost: $" in watched
        assert "without unpriced, of which no price is known" in watched
        batch = json.loads(run("status", batch_id, "--json"))
        output = httpx.get(f"{server.url}/v1/files/{batch['output_file_id']}/content").content
        assert find_mismatches(batch, output, wanted) == []
        assert "cost       $" in run("status", batch_id)

        table = run("usage", "--by", "model")
        assert set(table.split()) >= MODELS
        assert "without a price, and not in the sums: unpriced" in table
        usage = json.loads(run("usage", "--by", "model,batch", "--json"))
        assert usage["total"]["paid"] == batch["cost"]["paid"]
        code, out, _ = backfill("usage", "--by", "batch", "--csv", folder=tmp_path, variables=variables)
        (row,) = csv.DictReader(io.StringIO(out))
        assert (code, row["batch"], row["paid"], row["saved"]) == (
            0,
            batch_id,
            batch["cost"]["paid"],
            batch["cost"]["saved"],
        )

        assert "of hardware for a million tokens" in run("status")
        check_hardware(server)
        paid = read_paid(server)
        assert set(paid) == MODELS - {"unpriced"}
        assert sum(paid.values()) == pytest.approx(float(batch["cost"]["paid"]))


def check_hardware(server: BackfillServer) -> None:
    (replica,) = httpx.get(f"{server.url}/v1/engines").json()["data"]
    # 1.50 and a third of a kilowatt-hour, for the part of an hour that it worked.
    spent = Decimal("1.605") * replica["busy_ms"] / 3_600_000
    tokens = replica["prompt_tokens"] + replica["completion_tokens"]
    assert float(replica["hardware_cost_per_million"]) == pytest.approx(float(spent * 10**6 / tokens), abs=1e-6)


def read_paid(server: BackfillServer) -> dict[str, float]:
    """Model -> what it cost, by the metrics."""
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if family.name == "backfill_model_cost"]
    return {sample.labels["model"]: sample.value for sample in samples if sample.labels["kind"] == "paid"}
