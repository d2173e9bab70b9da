from .answer import count_usage
from .auto import AutoReplica, make_deterministic
from .client import EngineClient
from .external import ExternalReplica
from .fleet import Fleet, Member, Route, rename_model
from .forwarding import FORWARD_TIMEOUT, NOT_SENT, ForwardedAnswer, WholeAnswer
from .llamacpp.replica import LlamaCppReplica
from .managed.replica import ManagedReplica
from .openvino.replica import OpenVinoReplica
from .presence import FirstToken, Presence, Visit
from .replica import CacheHabit, Gauges, OnFirstToken, Replica, ReplicaLimits
from .reply import Answered, Lost, LostReason, Refused, Reply
from .speech.replica import SpeechReplica

__all__ = [
    "FORWARD_TIMEOUT",
    "NOT_SENT",
    "Answered",
    "AutoReplica",
    "CacheHabit",
    "EngineClient",
    "ExternalReplica",
    "FirstToken",
    "Fleet",
    "ForwardedAnswer",
    "Gauges",
    "LlamaCppReplica",
    "Lost",
    "LostReason",
    "ManagedReplica",
    "Member",
    "OnFirstToken",
    "OpenVinoReplica",
    "Presence",
    "Refused",
    "Replica",
    "ReplicaLimits",
    "Reply",
    "Route",
    "SpeechReplica",
    "Visit",
    "WholeAnswer",
    "count_usage",
    "make_deterministic",
    "rename_model",
]
