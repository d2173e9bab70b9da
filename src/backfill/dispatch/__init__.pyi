from .colleagues import Colleagues
from .crew import Crew
from .crew_work import CrewWork
from .dispatcher import Dispatcher
from .forecaster import Forecaster
from .heartbeat import Heartbeat
from .own_work import OwnWork

__all__ = ["Colleagues", "Crew", "CrewWork", "Dispatcher", "Forecaster", "Heartbeat", "OwnWork"]
