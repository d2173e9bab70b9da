"""Money after kill -9: what each batch says it used and costs, against a fold of its own output file.

The fold here knows nothing of journals and rows: it reads answers, looks up prices, and multiplies decimal numbers.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.findings import Findings, Setting, tell
from bench.null.process import NullEngine
from bench.send_file import send_multipart
from bench.server_process import BackfillServer, name_null_engine

__all__ = ["PRICES", "MoneyInput", "find_mismatches", "make_input", "measure_money", "name_prices"]

_KILLS = 100
_UP_S_MAX = 1.0
_UNENDED = 4
_LINES_MAX = 400
_POLL_S = 0.05
_END_TIMEOUT_S = 300.0
_MILLION = 1_000_000
_KEYS = ("input_per_million", "cached_input_per_million", "output_per_million", "discount_percent")

PRICES: dict[str, tuple[str, str, str, int]] = {
    "dear": ("3.5", "0.35", "10.123456789", 50),
    "cheap": ("0.06", "0.06", "0.12", 0),
    "odd": ("0.000000001", "0", "0.7", 33),
}
"""Model -> its prices for a million tokens in, cached and out, and its discount; a fourth model has none."""
_MODELS = (*PRICES, "unpriced")


@dataclass(frozen=True)
class MoneyInput:
    """A file of requests, and what its lines ask for."""

    content: bytes
    bodies: Mapping[str, tuple[str, str]]
    """Custom id -> model, and the whole request, by which identical ones are told."""


def name_prices() -> dict[str, str]:
    """The settings of the prices, with two underscores for each dot."""
    return {
        f"catalogue__models__{model}__{key}": str(value)
        for model, prices in PRICES.items()
        for key, value in zip(_KEYS, prices, strict=True)
    }


def make_input(lines: int, dice: random.Random, first_marker: int = 0) -> MoneyInput:
    """Requests for several models, some of them identical and deterministic."""
    rendered, bodies = [], {}
    for line in range(lines):
        # Each third line asks for one of a few that others ask for too.
        marker = first_marker + (dice.randrange(0, 10) if line % 3 == 0 else line)
        body = {
            "model": _MODELS[marker % len(_MODELS)],
            "messages": [{"role": "user", "content": f"marker-{marker:06d} how much is it?"}],
            "temperature": 0,
        }
        custom_id = f"request-{line}"
        bodies[custom_id] = (str(body["model"]), json.dumps(body))
        rendered.append(json.dumps({"custom_id": custom_id, "body": body}))
    return MoneyInput("\n".join(rendered).encode(), bodies)


def find_mismatches(batch: Mapping[str, Any], output: bytes, wanted: MoneyInput) -> list[str]:
    """Where the batch's own `cost` differs from what its answers add up to."""
    expected = _fold_output(output, wanted)
    told = {each["model"]: each for each in batch["cost"]["models"]}
    found = [
        f"{batch['id']}: {model}: {name} is {told.get(model, {}).get(name)}, its answers say {value}"
        for model, facts in expected.items()
        for name, value in facts.items()
        if _differs(told.get(model, {}).get(name), value)
    ]
    for name in ("list", "discount", "paid", "saved"):
        total = sum((facts[name] for facts in expected.values() if facts[name] is not None), Decimal(0))
        if _differs(batch["cost"][name], total if _is_priced(expected) else None):
            found.append(f"{batch['id']}: {name} is {batch['cost'][name]}, its answers say {total}")
    return found


def measure_money(setting: Setting, findings: Findings) -> None:
    """Kill a server at random instants while batches run and end; then hold every batch against its output."""
    kills = max(2, setting.scale(_KILLS * 500) // 500)
    dice = random.Random(4)
    folder = setting.make_folder()
    with (
        NullEngine(delay_ms=10) as engine,
        BackfillServer(folder / "data", name_null_engine(engine.url, 8), name_prices()) as server,
    ):
        batches: dict[str, MoneyInput] = {}
        open_ids: list[str] = []
        for number in range(kills):
            open_ids = [batch_id for batch_id in open_ids if server.read_batch(batch_id)["completed_at"] is None]
            while len(open_ids) < _UNENDED:
                wanted = make_input(dice.randint(5, _LINES_MAX), dice, len(batches) * 1000)
                open_ids.append(_start_batch(server, folder, wanted))
                batches[open_ids[-1]] = wanted
            time.sleep(dice.uniform(0.0, _UP_S_MAX))
            server.kill()
            server.start()
            if (number + 1) % 10 == 0:
                tell(f"money: {number + 1} of {kills} kills, {len(batches)} batches")
        mismatches = list(_check_all(server, batches))
    findings.add(money_mismatches=len(mismatches))
    findings.facts |= {"money_kills": kills, "money_batches": len(batches)}
    findings.violations += mismatches


def _start_batch(server: BackfillServer, folder: Path, wanted: MoneyInput) -> str:
    path = folder / "input.jsonl"
    path.write_bytes(wanted.content)
    return server.create_batch(send_multipart(server.url, path))


def _check_all(server: BackfillServer, batches: Mapping[str, MoneyInput]) -> Iterator[str]:
    paid = Decimal(0)
    for batch_id, wanted in batches.items():
        batch = server.wait_for_end(batch_id, _END_TIMEOUT_S, _POLL_S)
        yield from find_mismatches(batch, server.download(batch["output_file_id"]), wanted)
        paid += Decimal(batch["cost"]["paid"] or 0)
    for by in ("day", "model", "batch"):
        total = server.read_usage(by)["total"]["paid"]
        if Decimal(total or 0) != paid:
            yield f"usage by {by}: {total} is paid, the batches say {paid}"


def _fold_output(output: bytes, wanted: MoneyInput) -> dict[str, dict[str, Any]]:
    """Model -> what its answers add up to; of identical requests one was computed."""
    answered = [json.loads(line) for line in output.splitlines()]
    seen: Counter[str] = Counter()
    sums: dict[str, Counter[str]] = {}
    for line in answered:
        model, body = wanted.bodies[line["custom_id"]]
        usage = line["response"]["body"]["usage"]
        seen[body] += 1
        prefix = "reused_" if seen[body] > 1 else ""
        counted = sums.setdefault(model, Counter())
        counted["answered"] += 1
        counted["reused_requests"] += bool(prefix)
        counted[f"{prefix}input_tokens"] += usage["prompt_tokens"]
        counted[f"{prefix}output_tokens"] += usage["completion_tokens"]
    return {model: dict(counted) | _price(model, counted) for model, counted in sums.items()}


def _price(model: str, counted: Mapping[str, int]) -> dict[str, Decimal | None]:
    if model not in PRICES:
        return {"list": None, "discount": None, "paid": None, "saved": None}
    prompt, _, completion, discount = PRICES[model]

    def list_of(prefix: str) -> Decimal:
        tokens_in, tokens_out = counted.get(f"{prefix}input_tokens", 0), counted.get(f"{prefix}output_tokens", 0)
        return (tokens_in * Decimal(prompt) + tokens_out * Decimal(completion)) / _MILLION

    listed = list_of("")
    off = listed * discount / 100
    return {"list": listed, "discount": off, "paid": listed - off, "saved": off + list_of("reused_")}


def _is_priced(expected: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(facts["list"] is not None for facts in expected.values())


def _differs(told: Any, expected: Any) -> bool:
    if isinstance(expected, Decimal):
        return told is None or Decimal(str(told)) != expected
    return bool(told != expected)
