"""The part `media`: its measurements, one after the other."""

from collections.abc import Callable

from bench.findings import Findings, Setting
from bench.media.hearing import measure_hearing, measure_long_clip
from bench.media.hostile import measure_hostile_references
from bench.media.picture_batches import measure_data_urls, measure_fetches

__all__ = ["measure_media"]

_MEASUREMENTS: tuple[Callable[[Setting, Findings], None], ...] = (
    measure_hostile_references,
    measure_hearing,
    measure_long_clip,
    measure_fetches,
    measure_data_urls,
)


def measure_media(setting: Setting, findings: Findings) -> None:
    """Every figure of pictures and clips."""
    for measure in _MEASUREMENTS:
        measure(setting, findings)
