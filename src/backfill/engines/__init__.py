"""Start, watch, probe and call engines; what they answer is a value, and knows nothing of batches or files."""

from backfill.engines.auto import AutoReplica, make_deterministic
from backfill.engines.client import EngineClient
from backfill.engines.external import ExternalReplica
from backfill.engines.fleet import Fleet, Member, Route, rename_model
from backfill.engines.interpret import count_usage
from backfill.engines.llamacpp import LlamaCppReplica
from backfill.engines.managed import ManagedReplica
from backfill.engines.openvino import OpenVinoReplica
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, Replica, ReplicaLimits
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply

__all__ = [
    "Answered",
    "AutoReplica",
    "CacheHabit",
    "EngineClient",
    "ExternalReplica",
    "Fleet",
    "Gauges",
    "LlamaCppReplica",
    "Lost",
    "LostReason",
    "ManagedReplica",
    "Member",
    "OnFirstToken",
    "OpenVinoReplica",
    "Refused",
    "Replica",
    "ReplicaLimits",
    "Reply",
    "Route",
    "count_usage",
    "make_deterministic",
    "rename_model",
]
