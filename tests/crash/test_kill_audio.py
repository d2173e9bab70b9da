"""kill -9 while clips are heard: each line comes once, and what is paid is what the clips of the answers are long."""

import json
import random
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from backfill.batch import AUDIO_TOKENS_PER_S
from bench.service.quotas import fold_enqueued, parse_enqueued
from tests.support.client import Client
from tests.support.server_process import BackfillServer
from tests.support.speech_server import SpeechServer

ENDPOINT, MODEL = "/v1/audio/transcriptions", "ear"
CLIPS = 60
SETTINGS = {
    "media__allow": '["127.0.0.1/32"]',
    "media__allow_http": "true",
    "catalogue__models": f'{{"{MODEL}" = {{audio_per_minute = 0.7, discount_percent = 30}}}}',
}


@pytest.fixture
def speech() -> Iterator[SpeechServer]:
    with SpeechServer(delay_s=0.005) as running:
        yield running


def make_input(speech: SpeechServer, dice: random.Random) -> tuple[bytes, dict[str, int]]:
    """Lines of clips, of which no two are equally long; custom id -> how long, in ms. Every fourth has a twin."""
    lengths_ms = dice.sample(range(100, 3000), CLIPS)
    lines, expected = [], {}
    for number, length_ms in enumerate(lengths_ms):
        body: dict[str, Any] = {"model": MODEL, "file": speech.link(length_ms, number), "temperature": 0}
        for name in (f"clip-{number}", f"twin-{number}")[: 1 + (number % 4 == 0)]:
            lines.append(json.dumps({"custom_id": name, "method": "FILE", "body": body}))
            expected[name] = length_ms
    dice.shuffle(lines)
    return "\n".join(lines).encode(), expected


def check(client: Client, batch: dict[str, Any], expected: dict[str, int]) -> None:
    results = [json.loads(line) for line in client.download(batch["output_file_id"])]
    texts = {line["custom_id"]: line["response"]["body"]["text"] for line in results}
    assert len(results) == len(texts) == len(expected)
    assert texts == {name: f"transcriptions of {length_ms / 1000:g} s" for name, length_ms in expected.items()}
    heard_ms = sum(length_ms for name, length_ms in expected.items() if name.startswith("clip"))
    twins_ms = sum(length_ms for name, length_ms in expected.items() if name.startswith("twin"))
    (used,) = batch["cost"]["models"]
    assert Fraction(str(used["audio_seconds"])) == Fraction(heard_ms, 1000)
    assert Fraction(str(used["reused_audio_seconds"])) == Fraction(twins_ms, 1000)
    listed = Fraction(heard_ms, 60_000) * Fraction("0.7")
    assert abs(Fraction(batch["cost"]["list"]) - listed) < Fraction(1, 10**17)
    assert abs(Fraction(batch["cost"]["paid"]) - listed * Fraction("0.7")) < Fraction(1, 10**17)
    total = client.request("GET", "/v1/usage?by=model").json()["total"]
    assert (total["audio_seconds"], total["paid"]) == (used["audio_seconds"], batch["cost"]["paid"])


@pytest.mark.parametrize("seed", [1, 2])
def test_seconds_are_exact_after_kills_at_random_instants(speech: SpeechServer, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    content, expected = make_input(speech, dice)
    with BackfillServer(tmp_path / "data", speech.url, **SETTINGS) as server:
        client = Client(server)
        batch_id = client.create(client.upload(content), ENDPOINT)
        # A minute for each clip, as nothing is known of this model yet.
        enqueued = parse_enqueued(client.request("GET", "/metrics").text)
        assert 0 < enqueued[MODEL] <= len(expected) * 60 * AUDIO_TOKENS_PER_S
        for forms in sorted(dice.sample(range(1, CLIPS // 2), 4)):
            speech.wait_for(forms)
            time.sleep(dice.uniform(0, 0.01))  # not to wait for anything: to hit another instant each time
            server.kill()
            left = fold_enqueued(server.data_dir)
            assert left.get(MODEL, 0) <= enqueued[MODEL]
            server.start()
        batch = client.wait_for_end(batch_id)
        assert batch["status"] == "COMPLETED", batch
        check(client, batch, expected)
        assert parse_enqueued(client.request("GET", "/metrics").text) == {}
    # What lay on disk when it was killed was not fetched again; what was half-fetched was.
    assert set(speech.fetches.values()) <= {1, 2}
    assert not (server.data_dir / "media" / batch_id).exists()


def test_what_was_heard_before_a_kill_counts_for_its_twin_too(speech: SpeechServer, tmp_path: Path) -> None:
    body = {"model": MODEL, "file": speech.link(1250, 1), "temperature": 0}
    lines = [json.dumps({"custom_id": f"{name}-1", "method": "FILE", "body": body}) for name in ("clip", "twin")]
    speech.style = "silent"  # only the clip's header, and so the record alone, says how long it is
    with BackfillServer(tmp_path / "data", speech.url, **SETTINGS) as server:
        client = Client(server)
        file_id = client.upload("\n".join(lines).encode())
        server.kill()
        # The two records are equally long and written together: the first is whole, the second is not there.
        server.start(fault="segment.half_written:2")
        batch_id = client.create(file_id, ENDPOINT)
        server.wait_for_death()
        server.start()
        batch = client.wait_for_end(batch_id)
        assert len(speech.forms) == 1
        check(client, batch, {"clip-1": 1250, "twin-1": 1250})
