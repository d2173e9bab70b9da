import pytest
from msgspec.structs import replace

from backfill.cli.engine_table import draw_engines, explain_cost, explain_engine
from backfill.status import Bottleneck, ReplicaState
from tests.support.replicas import make_replica


def draw(*engines: object, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    return list(draw_engines(engines))  # type: ignore[arg-type]


def test_a_terminal_of_80_columns_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = (
        make_replica("local", concurrency_ceiling=8),
        make_replica(
            "[red]gpu",
            state=ReplicaState.STARTING,
            bottleneck=Bottleneck.UNKNOWN,
            in_flight=250,
            concurrency_limit=256,
            concurrency_ceiling=1024,
            requests_per_s=0.04,
            completion_tokens_per_s=24_512.3,
        ),
        make_replica("idle", bottleneck=Bottleneck.CEILING, in_flight=0, completion_tokens_per_s=0, requests_per_s=0),
    )
    lines = draw(*engines, columns=80, monkeypatch=monkeypatch)
    assert lines[:4] == [
        "engine    state     in flight / limit  requests/s  tokens/s  bottleneck",
        "local     up                    8 / 8         4.1       195  engine",
        "[red]gpu  starting   250 / 256 (1024)        0.04    24,512",
        "idle      up               0 / 8 (64)           0         0  concurrency",
    ]
    assert max(map(len, lines[:4])) <= 80


def test_a_long_name_is_folded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "an-engine-with-a-name-as-long-as-a-host-name.example.com"
    lines = draw(
        make_replica(name, bottleneck=Bottleneck.UNKNOWN, concurrency_limit=4), columns=80, monkeypatch=monkeypatch
    )
    assert max(map(len, lines)) <= 80
    assert "".join(line[: line.find("  ")] if "  " in line else line for line in lines[1:]).startswith(name)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "local: the engine is the limit (8 of 8 requests in flight, 195 tokens/s)"),
        (
            {"bottleneck": Bottleneck.UPSTREAM_LIMIT},
            "local: its rate limit is the limit (8 of 8 requests in flight, 195 tokens/s)",
        ),
        (
            {"bottleneck": Bottleneck.CEILING, "completion_tokens_per_s": 0.0},
            "local: the configured concurrency is the limit (8 of 8 requests in flight, 4.1 requests/s)",
        ),
        (
            {"bottleneck": Bottleneck.DISK},
            "local: the journal's disk is the limit (8 of 8 requests in flight, 195 tokens/s)",
        ),
        (
            {"bottleneck": Bottleneck.BACKFILL},
            "local: Backfill's own process is the limit (8 of 8 requests in flight, 195 tokens/s)",
        ),
        ({"bottleneck": Bottleneck.WORK}, "local: has no work"),
        ({"bottleneck": Bottleneck.WORK, "state": ReplicaState.DOWN}, None),
        ({"bottleneck": Bottleneck.UNKNOWN}, None),
        ({"trouble": "connection refused"}, "local: connection refused"),
    ],
)
def test_the_bottleneck_has_a_sentence(members: dict[str, object], sentence: str | None) -> None:
    assert explain_engine(make_replica("local", **members)) == sentence


@pytest.mark.parametrize("bottleneck", Bottleneck)
def test_no_bottleneck_is_without_words(bottleneck: Bottleneck, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = draw(make_replica("local", bottleneck=bottleneck), columns=80, monkeypatch=monkeypatch)
    assert len(lines) == (2 if bottleneck is Bottleneck.UNKNOWN else 4)


def test_what_hardware_cost_is_told_where_it_is_known() -> None:
    plain = make_replica("gpu")
    assert explain_cost(plain) is None
    known = replace(plain, busy_ms=12_000_000, hardware_cost_per_million="0.420000", currency="usd")
    assert explain_cost(known) == "gpu: $0.42 of hardware for a million tokens, 3 h 20 min at work"
    priced = replace(known, list_price_per_million="0.88")
    assert explain_cost(priced) == f"{explain_cost(known)}; at list price $0.88"
    assert explain_cost(priced) in list(draw_engines([priced]))
