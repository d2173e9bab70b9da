"""The part `service`: its measurements, one after the other."""

from collections.abc import Callable

from bench.findings import Findings, Setting
from bench.service.deadlines import measure_deadlines
from bench.service.fairness import measure_fairness
from bench.service.forecasts import measure_forecasts
from bench.service.live import measure_live
from bench.service.money import measure_money
from bench.service.own_cost import measure_own_cost
from bench.service.quotas import measure_quotas

__all__ = ["measure_service"]

_MEASUREMENTS: tuple[Callable[[Setting, Findings], None], ...] = (
    measure_own_cost,
    measure_fairness,
    measure_deadlines,
    measure_forecasts,
    measure_live,
    measure_money,
    measure_quotas,
)


def measure_service(setting: Setting, findings: Findings) -> None:
    """Every figure of the service."""
    for measure in _MEASUREMENTS:
        measure(setting, findings)
