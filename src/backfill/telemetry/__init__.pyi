from .choice import open_tracing
from .running import tracing_along
from .tracing import Tracing

__all__ = ["Tracing", "open_tracing", "tracing_along"]
