"""When a lost request is tried again, and what is said when it is not. Pure but for the dice."""

import random

import msgspec

from backfill.config import DispatchConfig
from backfill.engines import Lost

__all__ = ["choose_delay_s", "render_loss"]


def choose_delay_s(policy: DispatchConfig, lost: Lost, tries: int, dice: random.Random) -> float:
    """Seconds until the next try, after `tries` of them were lost.

    Exponential backoff with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015); what the
    engine asked for in Retry-After is the least.
    """
    ceiling_s = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** (tries - 1))
    delay_s = dice.uniform(0.0, ceiling_s)
    if lost.retry_after_s is None:
        return delay_s
    return min(lost.retry_after_s, policy.retry_after_max_s) + delay_s


def render_loss(lost: Lost, tries: int) -> bytes:
    """The error object of a line whose every try was lost."""
    message = f"{lost.message} (given up after {tries} tries)" if tries > 1 else lost.message
    return msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": lost.reason.value}})
