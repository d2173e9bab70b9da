from .colleagues import Colleagues
from .crew import Crew
from .dispatcher import Dispatcher
from .forecaster import Forecaster
from .heartbeat import Heartbeat

__all__ = ["Colleagues", "Crew", "Dispatcher", "Forecaster", "Heartbeat"]
