from .dispatcher import Dispatcher
from .forecaster import Forecaster

__all__ = ["Dispatcher", "Forecaster"]
