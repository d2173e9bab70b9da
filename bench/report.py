"""From the figures of single runs to what is printed: medians, spreads, ratios. Pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["KEYS", "divide", "make_report", "summarize"]

KEYS = (
    "null_engine_rps",
    "bare_loop_rps",
    "cpu_s_per_1000",
    "upload_validate_s",
    "decode_floor_s",
    "peak_over_idle_mb",
    "create_to_first_request_s",
    "help_s",
    "ready_s",
    "recover_s",
    "redone_finished",
    "redone_in_flight",
    "lines",
    "many_over_one",
    "next_turn_ms",
    "money_mismatches",
    "quota_mismatches",
    "openvino_over_best_fixed",
    "llamacpp_over_best_fixed",
    "openvino_over_llamacpp",
    "prefixes_openvino_1",
    "prefixes_openvino_4",
    "prefixes_openvino_8",
    "prefixes_llamacpp_1",
    "prefixes_llamacpp_4",
    "prefixes_llamacpp_8",
    "two_replicas_over_sum",
    "replica_killed_lost",
    "replica_killed_redone",
    "full_after_s",
    "full_share",
    "found_least_ratio",
    "found_full_after_s",
    "fair_small_batch_ratio",
    "deadline_misses_ratio",
    "forecast_error",
    "table_rps_over_jsonl",
    "table_peak_mb",
    "import_ms",
    "help_ms",
    "hostile_references_let_through",
    "clips_over_best_direct",
    "clips_over_plain_script",
    "long_audio_words_share",
    "long_audio_peak_mb",
    "image_fetches",
    "image_idle_share",
    "data_url_peak_mb",
    "claim_ms_sqlite",
    "claim_ms_postgres",
    "rows_postgres_over_sqlite",
    "workers_2_over_1",
    "remote_store_over_local",
    "ray_2_over_1",
    "ray_4_over_1",
    "takeover_s",
    "storm_lost",
    "storm_doubled",
    "storm_redone_finished",
    "sim_feeding_share",
    "sim_transactions_per_s",
    "sim_missed_ratio",
)
"""These stand first in every report, in this order; null where they were not measured."""
_RATIOS = {
    "null_engine_over_bare": ("null_engine_rps", "bare_loop_rps"),
    "cpu_over_bare": ("cpu_s_per_1000", "bare_loop_cpu_s_per_1000"),
    "bare_over_plain_aiohttp": ("bare_loop_rps", "plain_aiohttp_rps"),
    "many_over_one": ("many_s", "one_s"),
    "upload_over_floor": ("upload_validate_s", "decode_floor_s"),
    "put_over_floor": ("put_validate_s", "decode_floor_s"),
    "workers_2_over_1": ("workers_2_rps", "workers_1_rps"),
    "rows_postgres_over_sqlite": ("rows_postgres_rps", "rows_sqlite_rps"),
    "remote_store_over_local": ("remote_rps", "remote_local_rps"),
    "openvino_over_best_fixed": ("openvino_tokens_per_s", "openvino_best_fixed_tokens_per_s"),
    "llamacpp_over_best_fixed": ("llamacpp_tokens_per_s", "llamacpp_best_fixed_tokens_per_s"),
    "openvino_over_llamacpp": ("openvino_pair_tokens_per_s", "llamacpp_pair_tokens_per_s"),
    "table_rps_over_jsonl": ("table_rps", "jsonl_rps"),
    "two_replicas_over_sum": ("two_replicas_lines_per_s", "one_by_one_lines_per_s"),
} | {
    f"prefixes_{engine}_{count}": (
        f"prefixes_{engine}_{count}_backfill_lines_per_s",
        f"prefixes_{engine}_{count}_naive_lines_per_s",
    )
    for engine in ("openvino", "llamacpp")
    for count in (1, 4, 8)
}
_DIGITS = 4


def summarize(runs: Sequence[float]) -> tuple[float, list[float]]:
    """The median, and the least and the greatest."""
    return median(runs), [round(min(runs), _DIGITS), round(max(runs), _DIGITS)]


def divide(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratios of runs that were made side by side: what slowed one slowed its neighbour as well."""
    return [one / other for one, other in zip(above, below, strict=True)]


def make_report(
    timings: Mapping[str, Sequence[float]], facts: Mapping[str, object], violations: Sequence[str]
) -> dict[str, Any]:
    """The one object that is printed: medians of the timings, ratios of those that have a partner, and the facts."""
    report: dict[str, Any] = dict.fromkeys(KEYS)
    spread = {}
    for name, runs in timings.items():
        value, spread[name] = summarize(runs)
        report[name] = round(value, _DIGITS)
    for name, (above, below) in _RATIOS.items():
        if above in timings and below in timings:
            value, spread[name] = summarize(divide(timings[above], timings[below]))
            report[name] = round(value, _DIGITS)
    return report | dict(facts) | {"spread": spread, "violations": list(violations)}
