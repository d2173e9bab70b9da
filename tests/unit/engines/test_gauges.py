"""Gauges in the form the engines give them."""

import pytest

from backfill.engines import Gauges
from backfill.engines.gauges import parse_gauges

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-8B"} 12.0
vllm:num_requests_running{engine="1",model_name="Qwen/Qwen3-8B"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a {strange} name"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="Qwen/Qwen3-8B"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="Qwen/Qwen3-8B"} 0.75
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 7.0
"""
OLD_VLLM = 'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
"""
LLAMACPP = """\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 8
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
llamacpp:prompt_tokens_seconds 123.64
"""

OPENVINO = """\
# TYPE openvino:requests_running gauge
openvino:requests_running 32
openvino:requests_waiting 3
openvino:kv_cache_usage_ratio 0.5
"""


@pytest.mark.parametrize(
    ("text", "gauges"),
    [
        ("vllm:num_requests_running 1e308\nvllm:num_requests_running 1e308\n", Gauges()),
        ("vllm:num_requests_running -3\n", Gauges()),
        (VLLM, Gauges(running=15, waiting=4, kv_cache_use=0.75)),
        (OLD_VLLM, Gauges(kv_cache_use=0.5)),
        (SGLANG, Gauges(running=162, waiting=2826, kv_cache_use=0.28)),
        (LLAMACPP, Gauges(running=8, waiting=2)),
        (OPENVINO, Gauges(running=32, waiting=3, kv_cache_use=0.5)),
        ("llamacpp:kv_cache_usage_ratio 1 1395066363000\n", Gauges(kv_cache_use=1.0)),
        ("vllm:num_requests_running NaN\nsglang:num_queue_reqs\nllamacpp:requests_deferred x\n", Gauges()),
        ("<html>Not found</html>", Gauges()),
        ("", Gauges()),
    ],
)
def test_gauges(text: str, gauges: Gauges) -> None:
    assert parse_gauges(text) == gauges
