"""Reads the few numbers we want out of an engine's Prometheus text."""

from typing import Final

from backfill.engines.replica import Gauges

__all__ = ["parse_gauges"]

# From the engines' own documents: vLLM "Production Metrics", SGLang "Production Metrics", llama.cpp's server README.
# openvino: and speech: are what our own hosts say.
_RUNNING: Final = frozenset(
    {
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "llamacpp:requests_processing",
        "openvino:requests_running",
        "speech:requests_running",
    }
)
_WAITING: Final = frozenset(
    {
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "llamacpp:requests_deferred",
        "openvino:requests_waiting",
        "speech:requests_waiting",
    }
)
_KV_CACHE_USE: Final = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",  # before vLLM 0.10
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
        "openvino:kv_cache_usage_ratio",
    }
)


# What is beyond is no number of requests, and a sum of such is no number at all.
_VALUE_MAX: Final = 1e9


def parse_gauges(text: str) -> Gauges:
    """The gauges in a `/metrics` answer; None for each that is not there.

    An engine with several ranks gives a sample for each: requests add up, and the fullest cache counts.
    """
    running: list[float] = []
    waiting: list[float] = []
    kv_cache_use: list[float] = []
    for line in text.splitlines():
        # name{label="value",…} 1.0 [timestamp]
        name = line.partition("{")[0].partition(" ")[0]
        if name in _RUNNING:
            running += _read_value(line)
        elif name in _WAITING:
            waiting += _read_value(line)
        elif name in _KV_CACHE_USE:
            kv_cache_use += _read_value(line)
    return Gauges(
        running=round(sum(running)) if running else None,
        waiting=round(sum(waiting)) if waiting else None,
        kv_cache_use=max(kv_cache_use, default=None),
    )


def _read_value(line: str) -> list[float]:
    """The sample's value, or nothing where it is no number. It stands behind the labels, which may hold spaces."""
    behind = line[line.rfind("}") + 1 :] if "{" in line else line.partition(" ")[2]
    try:
        value = float(behind.split()[0])
    except (ValueError, IndexError):
        return []
    return [value] if 0 <= value <= _VALUE_MAX else []
