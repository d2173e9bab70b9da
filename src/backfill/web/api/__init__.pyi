from .app import create_app, create_watched_app
from .readiness import Readiness
from .services import Services

__all__ = ["Readiness", "Services", "create_app", "create_watched_app"]
