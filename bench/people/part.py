"""The part `people`: its measurements, one after the other."""

from collections.abc import Callable

from bench.findings import Findings, Setting
from bench.people.pages import measure_pages
from bench.people.starting import measure_starting
from bench.people.tables import measure_tables

__all__ = ["measure_people"]

_MEASUREMENTS: tuple[Callable[[Setting, Findings], None], ...] = (measure_starting, measure_tables, measure_pages)


def measure_people(setting: Setting, findings: Findings) -> None:
    """Every figure of what people do with it."""
    for measure in _MEASUREMENTS:
        measure(setting, findings)
