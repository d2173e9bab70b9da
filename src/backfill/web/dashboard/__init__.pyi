from .front import Dashboard
from .house import House
from .pages import make_pages

__all__ = ["Dashboard", "House", "make_pages"]
