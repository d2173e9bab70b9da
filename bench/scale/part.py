"""The part `scale`: its measurements, one after the other."""

from collections.abc import Callable

from bench.findings import Findings, Setting
from bench.scale.claims import measure_claims
from bench.scale.ray_workers import measure_ray_workers
from bench.scale.remote import measure_remote
from bench.scale.rows import measure_rows
from bench.scale.simulation import measure_simulation
from bench.scale.storm import measure_storm
from bench.scale.takeover import measure_takeover
from bench.scale.workers import measure_workers

__all__ = ["measure_scale"]

_MEASUREMENTS: tuple[Callable[[Setting, Findings], None], ...] = (
    measure_claims,
    measure_rows,
    measure_workers,
    measure_remote,
    measure_ray_workers,
    measure_takeover,
    measure_storm,
    measure_simulation,
)


def measure_scale(setting: Setting, findings: Findings) -> None:
    """Every figure of what is shared."""
    for measure in _MEASUREMENTS:
        measure(setting, findings)
