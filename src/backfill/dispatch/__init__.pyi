from .colleagues import Colleagues
from .crew import Crew
from .crew_work import CrewWork
from .deadlines import Deadlines, find_urgency
from .dispatcher import Dispatcher
from .forecaster import Forecaster
from .heartbeat import Heartbeat
from .own_work import OwnWork
from .weighing import Weighed, Weighing

__all__ = [
    "Colleagues",
    "Crew",
    "CrewWork",
    "Deadlines",
    "Dispatcher",
    "Forecaster",
    "Heartbeat",
    "OwnWork",
    "Weighed",
    "Weighing",
    "find_urgency",
]
