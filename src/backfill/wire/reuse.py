"""What a batch object says of answers that were given to more than one line: an addition to both dialects."""

from typing import Any

from backfill.batch import Counts

__all__ = ["render_reuse"]


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
