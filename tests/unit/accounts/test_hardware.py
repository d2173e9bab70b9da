"""What hardware cost for a million tokens: rent and electricity of the time at work, and nothing where nobody knows."""

from decimal import Decimal
from typing import Any

from backfill.accounts import compute_hardware_cost
from backfill.batch import Price, Usage
from backfill.config import ExternalEngineConfig, MoneyConfig

HOUR_MS = 3_600_000
USAGE = Usage(1_500_000, 500_000)
PRICE = Price(60_000_000, None, 180_000_000)


def cost(engine: dict[str, Any], money: dict[str, Any], *prices: Price, usage: Usage = USAGE) -> tuple[Any, Any]:
    configured = ExternalEngineConfig(url="http://gpu", **engine)
    found = compute_hardware_cost(configured, MoneyConfig(**money), HOUR_MS // 2, usage, set(prices))
    return found.per_million, found.list_price_per_million


def test_rent_and_electricity_of_the_time_at_work() -> None:
    # Half an hour for two million tokens.
    assert cost({"cost_per_hour": 2}, {}) == ("0.500000", None)
    assert cost({"watts": 400}, {"price_per_kwh": "0.30"}) == ("0.030000", None)
    assert cost({"cost_per_hour": "2.00", "watts": 400}, {"price_per_kwh": Decimal("0.3")}) == ("0.530000", None)


def test_what_nobody_said_is_not_known() -> None:
    assert cost({}, {}) == (None, None)
    assert cost({"watts": 400}, {}) == (None, None)
    assert cost({}, {"price_per_kwh": 1}) == (None, None)
    assert cost({"cost_per_hour": 2}, {}, usage=Usage()) == (None, None)
    assert cost({"cost_per_hour": 0}, {})[0] == "0.000000"


def test_the_list_price_is_that_of_the_same_tokens() -> None:
    # 1.5 million at 0.06 and 0.5 million at 0.18, for two million.
    assert cost({"cost_per_hour": 2}, {}, PRICE) == ("0.500000", "0.09")
    # Of an engine with models of several prices nobody knows which computed what.
    assert cost({}, {}, PRICE, Price(1, 1, 1))[1] is None
    assert cost({}, {}, Price())[1] is None
