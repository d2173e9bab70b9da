"""What the dispatcher would tell of replicas, for tests of those that show it."""

from typing import Any

from backfill.status import Bottleneck, ReplicaState, ReplicaStatus

__all__ = ["make_replica"]


def make_replica(name: str, **members: Any) -> ReplicaStatus:
    """A busy engine; `members` say in what it is otherwise."""
    usual: dict[str, Any] = {
        "state": ReplicaState.UP,
        "bottleneck": Bottleneck.ENGINE,
        "in_flight": 8,
        "concurrency_limit": 8,
        "concurrency_ceiling": 64,
        "requests_per_s": 4.1,
        "completion_tokens_per_s": 195.4,
        "answered": 100,
        "lost": 2,
        "rate_limited": 3,
        "reused": 40,
        "prompt_tokens": 6000,
        "completion_tokens": 4800,
        "cached_tokens": 1000,
    }
    return ReplicaStatus(name=name, **usual | members)
