from .api import Services, create_app

__all__ = ["Services", "create_app"]
