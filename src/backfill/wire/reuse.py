"""Identical requests run once: the digest by which they are found, and what a batch object says of it. Pure."""

from typing import Any

import xxhash

from backfill.batch import Counts

__all__ = ["digest_request", "render_reuse"]

_hash = xxhash.xxh3_64_intdigest


def digest_request(body: bytes, temperature: object, seed: object) -> int:
    """Hash of a request's bytes if it is one that gives the same answer each time, else 0."""
    is_deterministic = (temperature == 0 and temperature is not False) or type(seed) is int
    return (_hash(body) or 1) if is_deterministic else 0


def render_reuse(counts: Counts) -> dict[str, Any]:
    """A member `reused`, only where there is something to tell: the object is else exactly as clients know it."""
    if not counts.reused:
        return {}
    usage = counts.reused_usage
    return {
        "reused": {
            "requests": counts.reused,
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
        }
    }
