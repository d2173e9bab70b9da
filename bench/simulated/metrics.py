"""`/metrics` of a simulated engine, in the formats of the real ones."""

from typing import Final

__all__ = ["render_metrics"]

# name, type and labels as in vLLM's and SGLang's "Production Metrics" and in llama.cpp's server README
_NAMES: Final = {
    "vllm": {
        "running": ("vllm:num_requests_running", "gauge"),
        "waiting": ("vllm:num_requests_waiting", "gauge"),
        "kv_cache_use": ("vllm:kv_cache_usage_perc", "gauge"),
        "prompt_tokens": ("vllm:prompt_tokens_total", "counter"),
        "completion_tokens": ("vllm:generation_tokens_total", "counter"),
    },
    "sglang": {
        "running": ("sglang:num_running_reqs", "gauge"),
        "waiting": ("sglang:num_queue_reqs", "gauge"),
        "kv_cache_use": ("sglang:token_usage", "gauge"),
        "prompt_tokens": ("sglang:prompt_tokens_total", "counter"),
        "completion_tokens": ("sglang:generation_tokens_total", "counter"),
    },
    "llamacpp": {
        "running": ("llamacpp:requests_processing", "gauge"),
        "waiting": ("llamacpp:requests_deferred", "gauge"),
        "kv_cache_use": ("llamacpp:kv_cache_usage_ratio", "gauge"),
        "prompt_tokens": ("llamacpp:prompt_tokens_total", "counter"),
        "completion_tokens": ("llamacpp:tokens_predicted_total", "counter"),
    },
}
_LABELS: Final = {
    "vllm": '{engine="0",model_name="simulated model"}',
    "sglang": '{model_name="simulated model"}',
    "llamacpp": "",
}


def render_metrics(flavour: str, **values: float) -> str:
    """The text that "vllm", "sglang" or "llamacpp" would answer with these values.

    Raises:
        KeyError: no such engine.

    """
    lines = []
    for what, (name, kind) in _NAMES[flavour].items():
        lines += [
            f"# HELP {name} {what.replace('_', ' ')} of the simulation",
            f"# TYPE {name} {kind}",
            f"{name}{_LABELS[flavour]} {float(values[what])}",
        ]
    return "\n".join(lines) + "\n"
